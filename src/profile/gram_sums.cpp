#include "gram_sums.h"

#include <algorithm>
#include <cmath>

#include "optiq/base/threads.h"

namespace optiq::profile {

namespace mx = model::mx;

void add_gram(const mx::array& gram, std::vector<float>& sum) {
  sum.resize(gram.size(), 0.0f);
  const auto* values = gram.data<float>();
  parallel_for(sum.size(), 1u << 18, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) sum[i] += values[i];
  });
}

namespace {

/// Elements of the rows in front of `row` in a lower triangle.
std::size_t triangle_size(std::size_t row) {
  return row * (row + 1) / 2;
}

/// The lower triangle of a symmetric matrix, evaluated.
void add_triangle(const mx::array& gram, std::vector<double>& sum) {
  const auto width = static_cast<std::size_t>(gram.shape(0));
  sum.resize(triangle_size(width), 0.0);
  const auto* values = gram.data<float>();
  parallel_for(width, 64, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      double* sums = sum.data() + triangle_size(row);
      for (std::size_t i = 0; i <= row; ++i) sums[i] += static_cast<double>(values[row * width + i]);
    }
  });
}

/// The whole matrix, over `tokens`; the sum's memory is given back.
std::vector<float> mean_of(std::vector<double> sum, std::size_t width, std::int64_t tokens) {
  std::vector<float> mean(width * width);
  parallel_for(width, 64, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      for (std::size_t i = 0; i < width; ++i) {
        const double value = i <= row ? sum[triangle_size(row) + i] : sum[triangle_size(i) + row];
        mean[row * width + i] = static_cast<float>(value / static_cast<double>(tokens));
      }
    }
  });
  return mean;
}

}  // namespace

void GramSums::add(const std::string& module, const mx::array& input) {
  const auto [known, is_new] = input_of_.try_emplace(module, module);
  if (is_new && input.id() == last_input_) known->second = input_of_.at(last_module_);
  last_input_ = input.id();
  last_module_ = module;
  if (known->second == module)
    pending_.emplace_back(module, kernels::gram(weighted(module, input), compute_));
}

/// Each token's input times the root of its weight.
mx::array GramSums::weighted(const std::string& module, const mx::array& input) {
  if (weights_ == nullptr) return input;
  const auto found = weights_->find(module);
  if (found == weights_->end()) return input;
  mx::Shape shape = input.shape();
  shape.back() = 1;
  const std::size_t tokens = input.size() / static_cast<std::size_t>(input.shape(-1));
  std::size_t& seen = seen_.try_emplace(module, first_token_).first->second;
  const mx::array weights(found->second.begin() + static_cast<std::ptrdiff_t>(seen), shape, mx::float32);
  seen += tokens;
  return mx::astype(input, mx::float32) * mx::sqrt(weights);
}

Status GramSums::evaluate() {
  std::vector<std::pair<std::string, mx::array>> pending = std::move(pending_);
  pending_.clear();
  std::ranges::reverse(pending);
  while (!pending.empty()) {
    const auto [module, gram] = std::move(pending.back());
    pending.pop_back();
    OPTIQ_CHECK(model::evaluate({gram}));
    add_triangle(gram, sums_[module]);
  }
  return {};
}

Status GramSums::share(const Workers& workers) {
  for (auto& [module, sum] : sums_) OPTIQ_CHECK(workers.sum(sum));
  return {};
}

Result<Grams> GramSums::means(std::int64_t tokens) && {
  Grams grams;
  for (auto& [module, sum] : sums_) {
    const auto width = static_cast<std::size_t>(std::sqrt(2.0 * static_cast<double>(sum.size())));
    std::vector<float> mean = mean_of(std::move(sum), width, tokens);
    OPTIQ_TRY(auto gram, quant::Gram::make(std::move(mean), static_cast<std::int64_t>(width), module));
    grams[module] = std::make_shared<const quant::Gram>(std::move(gram));
  }
  for (const auto& [module, owner] : input_of_) grams[module] = grams.at(owner);
  return grams;
}

}  // namespace optiq::profile
