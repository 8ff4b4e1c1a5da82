#include "channel_energies.h"

#include <algorithm>
#include <cmath>

namespace optiq::profile {

namespace mx = model::mx;

void ChannelEnergies::add(const std::string& module, const mx::array& input) {
  pending_.emplace_back(module, mx::sum(mx::square(mx::reshape(input, {-1, input.shape(-1)})), 0));
}

Status ChannelEnergies::evaluate() {
  std::vector<mx::array> wanted;
  for (const auto& [module, energy] : pending_) wanted.push_back(energy);
  OPTIQ_CHECK(model::evaluate(wanted));
  for (const auto& [module, energy] : pending_) {
    std::vector<double>& sum = sums_[module];
    sum.resize(energy.size());
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(energy.data<float>()[i]);
  }
  pending_.clear();
  return {};
}

Status ChannelEnergies::share(const Workers& workers) {
  for (auto& [module, sum] : sums_) OPTIQ_CHECK(workers.sum(sum));
  return {};
}

Importance ChannelEnergies::means(std::int64_t tokens) const {
  Importance importance;
  for (const auto& [module, sum] : sums_) {
    for (const double value : sum)
      importance[module].push_back(static_cast<float>(value / static_cast<double>(tokens)));
  }
  return importance;
}

bool is_finite(const Importance& importance) {
  return std::ranges::all_of(importance, [](const auto& entry) {
    return std::ranges::all_of(entry.second, [](float value) { return std::isfinite(value); });
  });
}

}  // namespace optiq::profile
