#include <gtest/gtest.h>

#include "optiq/plan/planner.h"
#include "support/latency.h"
#include "support/seed.h"
#include "support/sensitivity.h"

namespace optiq::plan {
namespace {

using profile::Estimator;
using profile::Sensitivity;

class GuardPlans : public testing::Test {
 protected:
  [[nodiscard]] std::map<std::string, Plan> guards(const Rules& rules, Budget budget = {}) const {
    if (budget.file_bytes == 0) budget.file_bytes = bytes({6, 64});
    const auto found = guard_plans(all_, budget, rules);
    EXPECT_TRUE(found) << found.error().message;
    std::map<std::string, Plan> named;
    for (const Guard& guard : *found) {
      EXPECT_LE(guard.plan.bytes, budget.file_bytes);
      EXPECT_EQ(guard.plan.budget_bytes, budget.file_bytes);
      EXPECT_TRUE(check_plan(guard.plan, guard.name));
      named.emplace(guard.name.starts_with("uniform") ? "uniform" : "mixed", guard.plan);
    }
    return named;
  }

  [[nodiscard]] std::uint64_t bytes(quant::Format format) const { return uniform_plan(all_, format)->bytes; }

  static quant::Format format(const Plan& plan) { return plan.modules.front().format; }

  Random random_{test::seed()};
  // Fewer bits cost more by far, so that the best guard is the one of most bits that fits.
  Sensitivity all_ = test::random_sensitivity(random_, 9, Estimator::kl, {2, 3, 4, 6}, {64});
};

TEST_F(GuardPlans, AreTheBestOfEachKindThatFits) {
  const auto found = guards({});
  EXPECT_EQ(format(found.at("uniform")), (quant::Format{6, 64}));
  EXPECT_EQ(found.at("mixed").bytes, mixed_recipe_plan(all_, {{4, 64}, {6, 64}})->bytes);
  const auto small = guards({}, size_budget(bytes({4, 64}) - 1));
  EXPECT_EQ(format(small.at("uniform")), (quant::Format{3, 64}));
  EXPECT_EQ(small.at("mixed").bytes, mixed_recipe_plan(all_, {{3, 64}, {4, 64}})->bytes);
  EXPECT_TRUE(guards({}, size_budget(bytes({2, 64}) - 1)).empty());
}

TEST_F(GuardPlans, KeepToTheRules) {
  EXPECT_EQ(format(guards({.most_bits = 4}).at("uniform")), (quant::Format{4, 64}));
  EXPECT_EQ(guards({.most_bits = 4}).at("mixed").bytes, mixed_recipe_plan(all_, {{3, 64}, {4, 64}})->bytes);
  EXPECT_TRUE(guards({.least_bits = 6}, size_budget(bytes({6, 64}) - 1)).empty());
  const auto few = guards({.bits = {2, 3}});
  EXPECT_EQ(format(few.at("uniform")), (quant::Format{3, 64}));
  EXPECT_FALSE(few.contains("mixed"));
  const auto pinned = guards({.pins = {{"model.embed_tokens", {6, 64}}}});
  EXPECT_EQ(format(pinned.at("uniform")), (quant::Format{6, 64}));
  EXPECT_FALSE(pinned.contains("mixed"));
  EXPECT_TRUE(guards({.pins = {{"model.embed_tokens", {16, 0}}}}).empty());
}

TEST_F(GuardPlans, HaveNoGroupThatTheRulesExclude) {
  all_ = test::random_sensitivity(random_, 9, Estimator::kl, {2, 3, 4, 6}, {32, 64});
  const auto found = guards({.group_sizes = {32}}, size_budget(bytes({6, 32})));
  EXPECT_EQ(format(found.at("uniform")), (quant::Format{6, 32}));
  EXPECT_FALSE(found.contains("mixed"));
}

TEST_F(GuardPlans, LeaveModulesDenseOnlyWhereThatIsAllowed) {
  const std::uint64_t enough = std::uint64_t{1} << 30;
  all_.modules.front().options = {{{8, 64}, 0.1, 0, {}}};
  EXPECT_TRUE(guards({}, size_budget(enough)).empty());
  EXPECT_EQ(guards({.allow_dense = true}, size_budget(enough)).size(), 2u);
}

TEST_F(GuardPlans, AreFastEnough) {
  LatencyTable table = test::latency_of(all_);
  const Budget free{.file_bytes = bytes({6, 64}), .latency = LatencyLimit{table, 1}};
  const double seconds = guards({}, free).at("uniform").latency->seconds_per_token;
  const Budget limited{.file_bytes = bytes({6, 64}), .latency = LatencyLimit{table, 0.999 * seconds}};
  for (const auto& [kind, plan] : guards({}, limited)) {
    EXPECT_LE(plan.latency->seconds_per_token, 0.999 * seconds);
    EXPECT_NE(format(plan), (quant::Format{6, 64}));
  }
  const Budget none{.file_bytes = bytes({6, 64}), .latency = LatencyLimit{table, 1e-9}};
  EXPECT_TRUE(guards({}, none).empty());
}

}  // namespace
}  // namespace optiq::plan
