#include "token_sizes.h"

#include <numeric>

#include "optiq/base/half.h"

namespace optiq::profile {

namespace mx = model::mx;

Status TokenSizes::add(const std::string& module, const std::string& owner, const mx::array& gradient) {
  mx::array sizes = mx::sqrt(mx::mean(mx::square(gradient), -1));
  OPTIQ_CHECK(model::evaluate({sizes}));
  std::vector<float>& all = sizes_[module];
  all.insert(all.end(), sizes.data<float>(), sizes.data<float>() + sizes.size());
  owner_of_[module] = owner;
  return {};
}

Status TokenSizes::share(const Workers& workers) {
  for (auto& [module, sizes] : sizes_) {
    OPTIQ_TRY(sizes, workers.gather(sizes));
  }
  return {};
}

TokenWeights TokenSizes::weights() const {
  std::map<std::string, double> users;
  for (const auto& [module, owner] : owner_of_) users[owner] += 1;
  TokenWeights weights;
  for (const auto& [module, sizes] : sizes_) {
    const std::string& owner = owner_of_.at(module);
    const double mean = std::accumulate(sizes.begin(), sizes.end(), 0.0) / static_cast<double>(sizes.size());
    std::vector<float>& shared = weights[owner];
    shared.resize(sizes.size());
    for (std::size_t i = 0; i < sizes.size(); ++i)
      shared[i] += static_cast<float>((mean > 0 ? static_cast<double>(sizes[i]) / mean : 1.0) / users[owner]);
  }
  for (auto& [module, values] : weights) {
    for (float& value : values) value = bf16_to_f32(f32_to_bf16(value));
  }
  return weights;
}

}  // namespace optiq::profile
