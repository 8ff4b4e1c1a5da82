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
  std::size_t& seen = seen_[module];
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
    add_gram(gram, sums_[module]);
  }
  return {};
}

Result<Grams> GramSums::means(std::int64_t tokens) && {
  Grams grams;
  for (auto& [module, sum] : sums_) {
    for (float& value : sum) value /= static_cast<float>(tokens);
    const auto width = std::llround(std::sqrt(static_cast<double>(sum.size())));
    OPTIQ_TRY(auto gram, quant::Gram::make(std::move(sum), width, module));
    grams[module] = std::make_shared<const quant::Gram>(std::move(gram));
  }
  for (const auto& [module, owner] : input_of_) grams[module] = grams.at(owner);
  return grams;
}

}  // namespace optiq::profile
