#include <algorithm>

#include "optiq/plan/planner.h"

namespace optiq::plan {

std::vector<std::int64_t> context_lengths(std::int64_t max_positions) {
  constexpr std::int64_t kFirst = 2048, kMost = 131072;
  const std::int64_t last = max_positions > 0 ? std::min(max_positions, kMost) : kMost;
  std::vector<std::int64_t> lengths{std::min(kFirst, last)};
  while (lengths.back() < last) lengths.push_back(std::min(2 * lengths.back(), last));
  return lengths;
}

Result<std::vector<ContextPlan>> context_plans(const profile::Sensitivity& sensitivity, std::uint64_t bytes,
                                               const MemoryNeed& need,
                                               const std::vector<std::int64_t>& contexts, const Rules& rules,
                                               const PlanOptions& options) {
  const auto plan_at = [&](std::int64_t tokens) -> Result<Plan> {
    MemoryNeed here = need;
    here.context_tokens = tokens;
    OPTIQ_TRY(const Budget budget, memory_budget(sensitivity, bytes, here));
    return make_plan(sensitivity, budget, rules, options);
  };
  std::vector<ContextPlan> plans;
  for (const std::int64_t tokens : contexts) {
    auto plan = plan_at(tokens);
    if (!plan && plan.error().code != ErrorCode::impossible_budget) return tl::unexpected(plan.error());
    plans.push_back({tokens, plan ? std::optional(std::move(*plan)) : std::nullopt});
  }
  return plans;
}

}  // namespace optiq::plan
