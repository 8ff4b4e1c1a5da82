#include "optiq/report/mismatch.h"

#include <gtest/gtest.h>

#include "support/contains.h"

namespace optiq::report {
namespace {

using test::contains;

/// Two sets; on "b" the plan for "a" has half as much KL again, on "a" that for "b" a quarter less.
evaluate::Mismatch example() {
  evaluate::Mismatch mismatch;
  mismatch.names = {"a", "b"};
  mismatch.plans.resize(2);
  mismatch.predicted = {{{0.4, 0.01}, {0.3, 0.02}}, {{0.5, 0.03}, {0.2, 0.04}}};
  mismatch.differences = {{{0, 0}, {0.25, 0.5}}, {{0.25, 0.4}, {0, 0}}};
  mismatch.spearman = {{1, 0.9}, {0.9, 1}};
  return mismatch;
}

void add_measured(evaluate::Mismatch& mismatch) {
  mismatch.window_kl = {{{0.3, 0.5}, {0.29, 0.31}}, {{0.2, 0.4}, {0.19, 0.21}}};
  mismatch.measured.assign(2, std::vector<evaluate::Distance>(2));
  for (std::size_t i = 0; i < 2; ++i)
    for (std::size_t j = 0; j < 2; ++j)
      mismatch.measured[i][j].kl = mean_with_error(mismatch.window_kl[i][j]);
}

TEST(MismatchReport, PredictionsAloneSaySo) {
  const std::string text = mismatch_text(example());
  EXPECT_TRUE(contains(
      text, "calibrating on a is predicted to cost 50.0 % more KL on b than calibrating on b itself"));
  EXPECT_TRUE(contains(text, "at worst: calibrating on a is predicted"));
  EXPECT_TRUE(contains(text, "25.0 % (50.0 %)"));
  EXPECT_FALSE(contains(text, "measured"));
  EXPECT_FALSE(mismatch_json(example())["pairs"][0].contains("kl"));
}

TEST(MismatchReport, MeasuredFiguresDecide) {
  evaluate::Mismatch mismatch = example();
  add_measured(mismatch);
  const std::string text = mismatch_text(mismatch);
  EXPECT_TRUE(
      contains(text, "calibrating on a costs 50.0 ± 0.0 % more KL on b than calibrating on b itself"));
  EXPECT_TRUE(
      contains(text, "calibrating on b costs 25.0 ± 0.0 % less KL on a than calibrating on a itself"));
  EXPECT_TRUE(contains(text, "a's own plan is not the best on a"));
  EXPECT_FALSE(contains(text, "b's own plan"));
  const Json json = mismatch_json(mismatch);
  EXPECT_EQ(json["pairs"].size(), 2u);
  EXPECT_EQ(json["pairs"][0]["calibrated_on"], "a");
  EXPECT_NEAR(json["pairs"][0]["excess"]["mean"].get<double>(), 0.5, 1e-12);
  EXPECT_NEAR(json["pairs"][1]["kl"]["mean"].get<double>(), 0.3, 1e-12);
}

TEST(MismatchReport, WhatChanceExplainsIsSaidToBeUnclear) {
  evaluate::Mismatch mismatch = example();
  add_measured(mismatch);
  mismatch.window_kl[0][1] = {0.1, 0.5};  // the differences are -0.09 and 0.29
  EXPECT_TRUE(contains(mismatch_text(mismatch), "than calibrating on b itself (no clear difference)"));
}

}  // namespace
}  // namespace optiq::report
