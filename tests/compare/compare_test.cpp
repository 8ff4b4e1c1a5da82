#include "optiq/compare/compare.h"

#include <gtest/gtest.h>

#include "support/seed.h"
#include "support/sensitivity.h"

namespace optiq::compare {
namespace {

TEST(PairedDifference, IsTheMeanOfDifferencesWithItsError) {
  // Differences 1, 2, 6: mean 3, sample variance (4 + 1 + 9) / 2 = 7, error √(7/3).
  const std::vector<double> a{11, 22, 36}, b{10, 20, 30};
  const auto found = paired_difference(a, b);
  ASSERT_TRUE(found);
  EXPECT_DOUBLE_EQ(found->mean, 3);
  EXPECT_DOUBLE_EQ(found->standard_error, std::sqrt(7.0 / 3));
  EXPECT_FALSE(paired_difference(a, std::vector<double>{1, 2}));
}

TEST(MakeField, GivesEachBaselineARivalOfNoMoreBytes) {
  Random random(test::seed());
  const auto all = test::random_sensitivity(random, 6, profile::Estimator::kl, {2, 3, 4, 6, 8}, {32, 64});
  const auto uniform = plan::uniform_plan(all, {4, 64}).value();
  const auto field = make_field(all, plan::size_budget(uniform.bytes), {});
  ASSERT_TRUE(field) << field.error().message;
  ASSERT_EQ(field->baselines.size(), 7U);
  EXPECT_EQ(field->baselines[0].candidate.bytes, uniform.bytes);
  EXPECT_EQ(field->baselines[0].rival, 0U);
  for (const Baseline& baseline : field->baselines) {
    SCOPED_TRACE(baseline.candidate.name);
    EXPECT_LE(field->ours.at(baseline.rival).bytes, baseline.candidate.bytes);
    if (!baseline.candidate.plan) continue;
    double ours = 0, theirs = 0;
    for (const auto& module : field->ours[baseline.rival].plan->modules) ours += module.cost;
    for (const auto& module : baseline.candidate.plan->modules) theirs += module.cost;
    EXPECT_LE(ours, theirs * (1 + 1e-9));
  }
  const auto encoder = [&](std::size_t i) { return field->baselines[i].candidate.plan->modules[0].encoder; };
  EXPECT_EQ(encoder(0), quant::Encoder::rtn);
  EXPECT_TRUE(field->baselines[1].candidate.awq);
  EXPECT_EQ(encoder(2), quant::Encoder::gptq);
  EXPECT_EQ(field->baselines[5].candidate.simulated, BlockFormat::nf4);
  EXPECT_EQ(field->baselines[6].candidate.simulated, BlockFormat::q4_0);
  EXPECT_EQ(field->baselines[6].candidate.bytes, simulated_bytes(all, BlockFormat::q4_0).value());
}

}  // namespace
}  // namespace optiq::compare
