// A latency table for synthetic sensitivities.
#pragma once

#include <set>

#include "optiq/plan/latency.h"
#include "optiq/profile/sensitivity.h"

namespace optiq::test {

/// Every shape at every format of `all`: a fixed share and one by bytes, odd widths at half the speed.
inline plan::LatencyTable latency_of(const profile::Sensitivity& all) {
  plan::LatencyTable table{.machine = {"test", "generic", 1}, .fixed_seconds = 1e-5, .entries = {}};
  std::set<std::pair<std::int64_t, std::int64_t>> shapes;
  for (const auto& module : all.modules) {
    if (!shapes.emplace(module.out_features, module.in_features).second) continue;
    for (const auto& option : module.options) {
      const auto bytes = static_cast<double>(
          quant::module_bytes(module.out_features, module.in_features, option.format, all.model.dtype));
      const double slow = option.format.bits % 2 == 1 ? 2 : 1;
      table.entries.push_back(
          {module.out_features, module.in_features, option.format, 1e-6 + slow * bytes * 1e-10, 0});
    }
  }
  return table;
}

}  // namespace optiq::test
