#include "optiq/plan/difference.h"

#include <gtest/gtest.h>

#include "optiq/plan/planner.h"
#include "support/contains.h"
#include "support/seed.h"
#include "support/sensitivity.h"

namespace optiq::plan {
namespace {

const profile::FormatCost& option_of(const profile::ModuleSensitivity& module, quant::Format format) {
  return *std::ranges::find(module.options, format, &profile::FormatCost::format);
}

/// scale · mean_s (Σ projections)², in double, straight from the definition.
double brute_force(const profile::Sensitivity& all, const Plan& plan) {
  double mean = 0;
  for (std::size_t s = 0; s < all.samples(); ++s) {
    double sum = 0;
    for (std::size_t m = 0; m < plan.modules.size(); ++m)
      sum += static_cast<double>(option_of(all.modules[m], plan.modules[m].format).projections[s]);
    mean += sum * sum / static_cast<double>(all.samples());
  }
  return all.projection_scale * mean;
}

TEST(PlanDifference, PredictsOnePlanByAnotherProfile) {
  Random random(test::seed());
  for (int round = 0; round < 20; ++round) {
    const auto a = test::random_sensitivity(random, 3), b = test::random_sensitivity(random, 3);
    const Plan plan = make_plan(a, bits_per_weight_budget(a, 4.5).value()).value();
    EXPECT_EQ(predict(a, plan).value().mean, plan.predicted_kl);
    EXPECT_EQ(predict(a, plan).value().standard_error, plan.predicted_kl_standard_error);
    const double expected = brute_force(b, plan);
    EXPECT_NEAR(predict(b, plan).value().mean, expected, 1e-12 * expected);
  }
}

TEST(PlanDifference, SumsCostsWhereThereAreNoProjections) {
  Random random(test::seed());
  const auto a = test::random_sensitivity(random, 2, profile::Estimator::kl);
  const auto b = test::random_sensitivity(random, 2, profile::Estimator::kl);
  const Plan plan = make_plan(a, bits_per_weight_budget(a, 4.5).value()).value();
  double expected = 0;
  for (std::size_t m = 0; m < plan.modules.size(); ++m)
    expected += option_of(b.modules[m], plan.modules[m].format).cost;
  EXPECT_NEAR(predict(b, plan).value().mean, expected, 1e-12 * expected);
}

TEST(PlanDifference, WhatDoesNotFitIsNamed) {
  Random random(test::seed());
  const auto all = test::random_sensitivity(random, 2);
  const auto few = test::random_sensitivity(random, 2, profile::Estimator::fisher, {2}, {32});
  const Plan plan = uniform_plan(all, {4, 64}).value();
  const auto unmeasured = predict(few, plan);
  ASSERT_FALSE(unmeasured);
  EXPECT_TRUE(test::contains(unmeasured.error().message, "module model.embed_tokens"));
  EXPECT_FALSE(predict(test::random_sensitivity(random, 3), plan));
  EXPECT_FALSE(difference(plan, uniform_plan(test::random_sensitivity(random, 3), {4, 64}).value()));
}

TEST(PlanDifference, CountsModulesAndTheirBytes) {
  Random random(test::seed());
  const auto all = test::random_sensitivity(random, 2);
  const Plan a = uniform_plan(all, {4, 64}).value();
  Plan b = a;
  EXPECT_EQ(difference(a, b).value().modules, 0);
  b.modules[2].format = {3, 64};
  double bytes = 0;
  for (const auto& module : a.modules) bytes += static_cast<double>(module.bytes);
  const Difference found = difference(a, b).value();
  EXPECT_DOUBLE_EQ(found.modules, 1.0 / 5);
  EXPECT_DOUBLE_EQ(found.bytes, static_cast<double>(a.modules[2].bytes) / bytes);
}

TEST(PlanDifference, CorrelatesTheOptionsThatBothMeasured) {
  Random random(test::seed());
  auto a = test::random_sensitivity(random, 2);
  auto b = a;
  EXPECT_NEAR(cost_correlation(a, b), 1, 1e-12);
  for (auto& module : b.modules)
    for (auto& option : module.options) option.cost = -option.cost;
  EXPECT_NEAR(cost_correlation(a, b), -1, 1e-12);
  b.modules.pop_back();
  std::ranges::reverse(b.modules);
  EXPECT_NEAR(cost_correlation(a, b), -1, 1e-12);
}

}  // namespace
}  // namespace optiq::plan
