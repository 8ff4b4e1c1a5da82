#include "optiq/tune/round.h"

#include <gtest/gtest.h>

#include <cmath>

#include "optiq/encode/encode.h"
#include "src/tune/block_rounding.h"
#include "support/arrays.h"
#include "support/contains.h"
#include "support/golden_plan.h"
#include "support/model_folder.h"
#include "support/random_batch.h"
#include "support/seed.h"
#include "support/stops.h"
#include "support/temporary_folder.h"

namespace optiq::tune {
namespace {

namespace fs = std::filesystem;
using test::random_batch;
using Contents = std::map<std::string, std::vector<std::byte>>;

Contents contents(const fs::path& folder) {
  Contents all;
  const auto checkpoint = io::Checkpoint::open(folder).value();
  for (const auto& [name, tensor] : checkpoint.tensors())
    all[name].assign(tensor.bytes.begin(), tensor.bytes.end());
  return all;
}

class Round : public testing::TestWithParam<quant::Encoder> {
 protected:
  void encode(quant::Encoder encoder, quant::Format format) {
    const plan::Plan plan = test::plan_of(reference_, format, encoder);
    encode::Calibration calibration;
    calibration.tokens = random_batch(random_, reference_, 16, 24);
    const Status status = encode::encode_checkpoint(reference_.checkpoint(), plan, calibration, out_);
    ASSERT_TRUE(status) << status.error().message;
  }
  void SetUp() override {
    options_.compute = kernels::Compute::f32;
    options_.held_out_sequences = 8;
    options_.kept_tokens = 20;
    options_.steps = 60;
  }

  Random random_{test::seed()};
  model::Model reference_ = model::Model::open(test::golden_folder("llama")).value();
  test::TemporaryFolder folder_;
  fs::path out_ = folder_.path() / "out";
  RoundOptions options_;
};

/// From rtn's levels and from gptq's: every block comes closer on sequences it was not trained on, or stays;
/// the file keeps its format; the same again gives the same bytes.
TEST_P(Round, LowersTheErrorOfEveryBlockAndKeepsTheFormat) {
  encode(GetParam(), {2, 32});
  const Contents before = contents(out_);
  fs::copy(out_, folder_.path() / "copy", fs::copy_options::recursive);
  const auto batch = random_batch(random_, reference_, 40, 24);
  const auto result = learn_rounding(out_, reference_, batch, options_, nullptr);
  ASSERT_TRUE(result) << result.error().message;
  ASSERT_EQ(result->blocks.size(), static_cast<std::size_t>(reference_.config().layers));
  for (const auto& block : result->blocks) EXPECT_LE(block.after, block.before) << block.layer;
  EXPECT_LT(result->blocks.front().after, 0.97 * result->blocks.front().before);
  EXPECT_EQ(result->is_kept, result->divergence_after < result->divergence_before);
  EXPECT_TRUE(encode::verify_checkpoint(out_));
  const Contents after = contents(out_);
  ASSERT_EQ(after.size(), before.size());
  for (const auto& [name, bytes] : after) {
    EXPECT_EQ(bytes.size(), before.at(name).size()) << name;
    const bool may_change =
        result->is_kept && name.find(".layers.") != std::string::npos && !name.ends_with("norm.weight");
    EXPECT_TRUE(may_change || bytes == before.at(name)) << name;
  }
  const auto again = learn_rounding(folder_.path() / "copy", reference_, batch, options_, nullptr);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->divergence_after, result->divergence_after);
  EXPECT_EQ(contents(folder_.path() / "copy"), after);
}
INSTANTIATE_TEST_SUITE_P(Starts, Round, testing::Values(quant::Encoder::rtn, quant::Encoder::gptq),
                         [](const auto& start) { return std::string(quant::encoder_name(start.param)); });

using RoundOnce = Round;

/// What was reported of the kept model is what the file gives.
TEST_F(RoundOnce, ReportsTheDivergenceOfTheFile) {
  encode(quant::Encoder::rtn, {2, 32});
  const auto batch = random_batch(random_, reference_, 40, 24);
  const auto result = learn_rounding(out_, reference_, batch, options_, nullptr);
  ASSERT_TRUE(result) << result.error().message;
  ASSERT_TRUE(result->is_kept) << result->divergence_before << " " << result->divergence_after;
  const auto written = model::Model::open(out_).value();
  double sum = 0;
  for (std::int64_t i = 32; i < 40; ++i) {
    const auto flat = [&](const mx::array& logits) { return mx::reshape(logits, {-1, logits.shape(-1)}); };
    const auto target = kernels::top_probabilities(flat(reference_.forward(batch.array(i))), 20);
    const auto kl = kernels::top_divergence(target, flat(written.forward(batch.array(i))));
    for (const double value : test::values(kl)) sum += value / 24 / 8;
  }
  EXPECT_NEAR(sum, result->divergence_after, 1e-4 * sum);
}

TEST_F(RoundOnce, KeepsTheCheckpointWhereNothingIsBetter) {
  encode(quant::Encoder::rtn, {2, 32});
  const Contents before = contents(out_);
  options_.offset_rate = options_.range_rate = 0;
  const auto result =
      learn_rounding(out_, reference_, random_batch(random_, reference_, 12, 16), options_, nullptr);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_FALSE(result->is_kept);
  EXPECT_EQ(contents(out_), before);
}

TEST_F(RoundOnce, LeavesModulesOfMoreBitsAlone) {
  encode(quant::Encoder::rtn, {4, 32});
  const Contents before = contents(out_);
  const auto result =
      learn_rounding(out_, reference_, random_batch(random_, reference_, 12, 16), options_, nullptr);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_TRUE(result->blocks.empty());
  EXPECT_EQ(contents(out_), before);
}

/// A checkpoint whose rounding is learned again and again.
class RoundResumed : public Round {
 protected:
  void SetUp() override {
    Round::SetUp();
    options_.steps = 20;
    encode(quant::Encoder::rtn, {2, 32});
    fs::copy(out_, start_, fs::copy_options::recursive);
    whole_ = learn(nullptr);
    whole_contents_ = contents(out_);
    ASSERT_TRUE(whole_.is_kept);
    begin_anew();
  }

  void begin_anew() {
    fs::remove_all(out_);
    fs::copy(start_, out_, fs::copy_options::recursive);
  }
  RoundResult learn(const Progress& progress) {
    const auto result = learn_rounding(out_, reference_, batch_, options_, progress);
    EXPECT_TRUE(result) << result.error().message;
    return result ? *result : RoundResult();
  }
  void expect_whole(const RoundResult& result) {
    EXPECT_EQ(round_to_json(result), round_to_json(whole_));
    EXPECT_EQ(contents(out_), whole_contents_);
    EXPECT_FALSE(fs::exists(journal_));
  }
  bool stop_before(std::string_view stage, double layer) {
    return test::stop_where(
        [&](std::string_view what, double done) { return what == stage && done == layer; },
        [&](const Progress& progress) { learn(progress); });
  }

  calibrate::TokenBatch batch_ = random_batch(random_, reference_, 20, 24);
  fs::path start_ = folder_.path() / "start";
  fs::path journal_ = folder_.path() / ".out.round.journal";
  RoundResult whole_;
  Contents whole_contents_;
};

TEST_F(RoundResumed, StoppedAnywhereItEndsInTheSameBytes) {
  RoundResult result;
  EXPECT_GT(
      test::stop_again_and_again(random_, 3, [&](const Progress& progress) { result = learn(progress); }), 2);
  expect_whole(result);
}

TEST_F(RoundResumed, LearnsNoFinishedBlockAgain) {
  const double last = static_cast<double>(reference_.config().layers) - 1;
  ASSERT_GT(last, 0);
  ASSERT_TRUE(stop_before("learning to round", last));
  std::vector<double> learned;
  expect_whole(learn([&](std::string_view what, double done, double) {
    if (what == "learning to round") learned.push_back(done);
  }));
  EXPECT_EQ(learned, std::vector{last});
}

/// A kill behind the swap of the folders, before the journal is gone.
TEST_F(RoundResumed, WhatWasSwappedInIsNotRoundedAgain) {
  const fs::path kept = folder_.path() / "journal";
  const Progress takes_away = [&](std::string_view what, double done, double) {
    if (what == "learning to round" && done == 1)
      fs::rename(out_ / "optiq.json", folder_.path() / "optiq.json");
  };
  EXPECT_FALSE(learn_rounding(out_, reference_, batch_, options_, takes_away));  // it cannot be swapped
  fs::copy_file(journal_, kept);
  fs::rename(folder_.path() / "optiq.json", out_ / "optiq.json");
  bool has_reported = false;
  const Progress progress = [&](std::string_view, double, double) { has_reported = true; };
  expect_whole(learn(progress));
  fs::copy_file(kept, journal_);
  expect_whole(learn(progress));
  EXPECT_FALSE(has_reported);
}

TEST_F(RoundResumed, OtherWorkBeginsAnew) {
  ASSERT_TRUE(stop_before("learning to round", 1));
  ++options_.steps;
  const RoundResult other = learn(nullptr);
  const Contents other_contents = contents(out_);
  begin_anew();
  EXPECT_EQ(round_to_json(learn(nullptr)), round_to_json(other));
  EXPECT_EQ(contents(out_), other_contents);
}

TEST_F(RoundResumed, TrustsNoDamagedJournal) {
  ASSERT_TRUE(stop_before("learning to round", 1));
  for (const std::string& version : test::damaged_journals(random_, journal_)) {
    begin_anew();
    test::write_text(journal_, version);
    expect_whole(learn(nullptr));
  }
}

TEST_F(RoundOnce, RefusesWhatCannotBe) {
  encode(quant::Encoder::rtn, {2, 32});
  const auto expect_refused = [&](const fs::path& folder, std::int64_t sequences, const RoundOptions& options,
                                  std::string_view part) {
    const auto result =
        learn_rounding(folder, reference_, random_batch(random_, reference_, sequences, 8), options, nullptr);
    ASSERT_FALSE(result);
    EXPECT_TRUE(test::contains(result.error().message, part)) << result.error().message;
  };
  expect_refused(out_, 8, options_, "more than 8 calibration sequences, got 8");
  expect_refused(folder_.path() / "none", 12, options_, "none");
  RoundOptions bad = options_;
  bad.steps = 0;
  expect_refused(out_, 12, bad, "at least one step");
  bad = options_;
  bad.offset_rate = NAN;
  expect_refused(out_, 12, bad, "finite rates");
  bad = options_;
  bad.most_bits = 16;
  expect_refused(out_, 12, bad, "1 to 8 bits, got 16");
  expect_refused(test::golden_folder("llama"), 12, options_, "holds no optiq.json");
  const auto mistaken = learn_rounding(out_, model::Model::open(out_).value(),
                                       random_batch(random_, reference_, 12, 8), options_, nullptr);
  ASSERT_FALSE(mistaken);
  EXPECT_TRUE(test::contains(mistaken.error().message, "expected full-precision weights"))
      << mistaken.error().message;
}

}  // namespace
}  // namespace optiq::tune
