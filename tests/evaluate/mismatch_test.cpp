#include "optiq/evaluate/mismatch.h"

#include <gtest/gtest.h>

#include "optiq/encode/encode.h"
#include "optiq/profile/profile.h"
#include "support/contains.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace optiq::evaluate {
namespace {

/// A tiny model with profiles on two kinds of text: its own samples with two seeds.
class MismatchTest : public testing::Test {
 protected:
  MismatchTest() : model_(test::golden_model("llama")) {
    test::copy_tokenizer("spm_bpe", folder_.path() / "tokenizer");
    const auto tokenizer = io::Tokenizer::open(folder_.path() / "tokenizer").value();
    for (const std::uint64_t seed : {1u, 2u}) {
      const calibrate::Source source{.sequences = 4, .tokens = 24, .seed = seed};
      CalibrationSet set;
      set.name = "set " + std::to_string(seed);
      set.profile = folder_.path() / (set.name + ".json");
      set.sensitivity = profile::profile(model_, tokenizer, source, {.formats = {{2, 32}, {4, 32}, {8, 32}}},
                                         set.profile, {})
                            .value();
      set.held_out = calibrate::load(calibrate::held_out(source, 3), model_, tokenizer, {}).value();
      sets_.push_back(std::move(set));
    }
    budget_ = plan::bits_per_weight_budget(sets_[0].sensitivity, 6.5).value();
  }

  test::TemporaryFolder folder_;
  model::Model model_;
  std::vector<CalibrationSet> sets_;
  plan::Budget budget_;
};

TEST_F(MismatchTest, EveryCellIsWhatThatPlanGivesOnThatText) {
  Mismatch mismatch = predict_mismatch(sets_, budget_, {}).value();
  const auto scratch = folder_.path() / "scratch";
  const Status measured = measure_mismatch(model_, sets_, scratch, mismatch, {});
  ASSERT_TRUE(measured) << measured.error().message;
  EXPECT_FALSE(std::filesystem::exists(scratch));
  for (std::size_t i = 0; i < 2; ++i) {
    const plan::Plan plan = plan::make_plan(sets_[i].sensitivity, budget_).value();
    const auto out = folder_.path() / std::to_string(i);
    const auto calibration =
        encode::read_calibration(profile::importance_path(sets_[i].profile), plan).value();
    ASSERT_TRUE(encode::encode_checkpoint(model_.checkpoint(), plan, calibration, out));
    const auto encoded = model::Model::open(out).value();
    for (std::size_t j = 0; j < 2; ++j) {
      const calibrate::TokenBatch& text = sets_[j].held_out;
      double kl = 0;
      for (std::int64_t row = 0; row < text.sequences; ++row) {
        const std::vector<std::int32_t> tokens(text.row(row).begin(), text.row(row).end());
        const auto expected = test::logits_of(model_, tokens), found = test::logits_of(encoded, tokens);
        for (std::size_t t = 0; t + 1 < tokens.size(); ++t) kl += test::kl_divergence(expected[t], found[t]);
      }
      kl /= static_cast<double>(text.sequences * (text.tokens - 1));
      EXPECT_NEAR(mismatch.measured[i][j].kl.mean, kl, 1e-4 * kl + 1e-6) << i << j;
      EXPECT_EQ(mismatch.predicted[i][j].mean, plan::predict(sets_[j].sensitivity, plan).value().mean);
    }
  }
}

TEST_F(MismatchTest, ExcessIsRelativeToTheTextsOwnPlan) {
  Mismatch mismatch;
  mismatch.predicted = {{{1, 0}, {6, 0}}, {{3, 0}, {4, 0}}};
  EXPECT_DOUBLE_EQ(excess(mismatch, 0, 1).mean, 0.5);
  EXPECT_DOUBLE_EQ(excess(mismatch, 1, 0).mean, 2);
  mismatch.measured.assign(2, std::vector<Distance>(2));
  mismatch.measured[1][1].kl = {2, 0};
  mismatch.window_kl = {{{}, {2, 4}}, {{}, {1, 3}}};
  const MeanError found = excess(mismatch, 0, 1);
  EXPECT_DOUBLE_EQ(found.mean, 0.5);
  EXPECT_DOUBLE_EQ(found.standard_error, 0);  // paired: both windows differ by the same
}

TEST_F(MismatchTest, WhatCannotBeComparedIsRefused) {
  const auto one = predict_mismatch({sets_[0]}, budget_, {});
  ASSERT_FALSE(one);
  EXPECT_EQ(one.error().code, ErrorCode::usage);
  sets_[1].sensitivity.encoder = quant::Encoder::rtn;
  const auto other = predict_mismatch(sets_, budget_, {});
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, ErrorCode::bad_input);
  EXPECT_TRUE(test::contains(other.error().message, "set 2.json")) << other.error().message;
}

}  // namespace
}  // namespace optiq::evaluate
