#include "optiq/tune/distill.h"

#include <gtest/gtest.h>

#include "optiq/encode/encode.h"
#include "src/tune/student.h"
#include "support/arrays.h"
#include "support/contains.h"
#include "support/golden_plan.h"
#include "support/quantized_model.h"
#include "support/random_batch.h"
#include "support/seed.h"
#include "support/stops.h"
#include "support/temporary_folder.h"

namespace optiq::tune {
namespace {

namespace fs = std::filesystem;
using test::Doubles;
using test::random_batch;
using test::values;

kernels::TopProbabilities target_of(const model::Model& reference, const mx::array& tokens, int count) {
  const mx::array logits = reference.forward(tokens);
  return kernels::top_probabilities(mx::reshape(logits, {-1, logits.shape(-1)}), count);
}

std::vector<PairGradients> zeros_of(const std::vector<Pairs>& pairs) {
  std::vector<PairGradients> sums;
  for (const Pairs& p : pairs) sums.push_back({mx::zeros_like(p.scales), mx::zeros_like(p.biases)});
  return sums;
}

class StudentGradient : public testing::TestWithParam<const char*> {};

/// Moves every pair of a module along its gradient, both ways: the divergence changes as the gradient says.
TEST_P(StudentGradient, MatchesDifferencesOfTheDivergence) {
  Random random(test::seed());
  const auto folders = test::quantized_pair(GetParam(), mx::float32);
  const test::OpenedModel student(folders.quantized);
  const auto reference = model::Model::open(test::golden_folder(GetParam())).value();
  const calibrate::TokenBatch batch = random_batch(random, *student.model, 1, 12);
  const auto target = target_of(reference, batch.array(0), 10);
  std::vector<Pairs> pairs = trainable_pairs(*student.model, 8);
  ASSERT_GT(pairs.size(), 4u);
  const Student measured(*student.model, pairs, kernels::Compute::f32);
  std::vector<PairGradients> sums = zeros_of(pairs);
  ASSERT_TRUE(measured.add_gradients(batch.array(0), target, sums));
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const auto slope_along = [&](mx::array& place, const mx::array& gradient) {
      const double length = test::norm(values(gradient));
      const mx::array start = place;
      const auto at = [&](double step) {
        place = start + gradient * mx::array(static_cast<float>(step / length));
        return measured.divergence(batch.array(0), target).value();
      };
      const auto difference = [&](double h) { return (at(h) - at(-h)) / (2 * h); };
      const double h = 0.004 / length;
      const double slope = (4 * difference(h) - difference(2 * h)) / 3;  // without the third derivative's h²
      place = start;
      return std::pair(slope, length);
    };
    for (const bool scales : {true, false}) {
      const mx::array gradient = scales ? sums[i].scales : sums[i].biases;
      const auto [slope, length] = slope_along(scales ? pairs[i].scales : pairs[i].biases, gradient);
      // The fifth derivative's h⁴, and f32 rounding of the divergence over 2h.
      EXPECT_NEAR(slope, length, 0.02 * length) << pairs[i].module << (scales ? " scales" : " biases");
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Golden, StudentGradient, testing::Values("llama", "qwen3"), test::golden_name);

TEST(Trainable, LeavesOutDenseModulesAndThoseOfMoreBits) {
  const auto folders = test::quantized_pair("llama", mx::float32);
  const test::OpenedModel student(folders.quantized);
  for (const int most : {2, 5, 8}) {
    std::size_t expected = 0;
    for (const auto& module : student.model->modules()) {
      const quant::Format format = student.model->format(module.name);
      expected += !format.is_dense() && format.bits <= most ? 1 : 0;
    }
    const auto pairs = trainable_pairs(*student.model, most);
    EXPECT_EQ(pairs.size(), expected);
    for (const Pairs& p : pairs) EXPECT_LE(p.stored.bits, most);
  }
}

/// A golden model encoded by hand at 2 bits, with its plan.
class Distill : public testing::Test {
 protected:
  void SetUp() override {
    const plan::Plan plan = test::plan_of(reference_, {2, 32}, quant::Encoder::rtn);
    const Status status = encode::encode_checkpoint(reference_.checkpoint(), plan, {}, out_);
    ASSERT_TRUE(status) << status.error().message;
    options_.compute = kernels::Compute::f32;
    options_.held_out_sequences = 4;
    options_.kept_tokens = 20;
    options_.learning_rate = 3e-3;
    options_.epochs = 6;
  }

  std::map<std::string, std::vector<std::byte>> contents() const {
    std::map<std::string, std::vector<std::byte>> all;
    const auto checkpoint = io::Checkpoint::open(out_).value();
    for (const auto& [name, tensor] : checkpoint.tensors())
      all[name].assign(tensor.bytes.begin(), tensor.bytes.end());
    return all;
  }

  Random random_{test::seed()};
  model::Model reference_ = model::Model::open(test::golden_folder("llama")).value();
  test::TemporaryFolder folder_;
  fs::path out_ = folder_.path() / "out";
  DistillOptions options_;
};

TEST_F(Distill, LowersTheHeldOutDivergenceAndChangesPairsOnly) {
  const auto before = contents();
  const auto batch = random_batch(random_, reference_, 28, 24);
  const auto result = distill(out_, reference_, batch, options_, nullptr);
  ASSERT_TRUE(result) << result.error().message;
  ASSERT_GT(result->best, 0u);
  EXPECT_LT(result->held_out[result->best], 0.97 * result->held_out[0]);
  EXPECT_TRUE(encode::verify_checkpoint(out_));
  bool changed = false;
  for (const auto& [name, bytes] : contents()) {
    const bool is_pair = name.ends_with(".scales") || name.ends_with(".biases");
    EXPECT_TRUE(is_pair || bytes == before.at(name)) << name;
    changed |= bytes != before.at(name);
  }
  EXPECT_TRUE(changed);
  // What was reported is what the file gives.
  const auto written = model::Model::open(out_).value();
  double sum = 0;
  for (std::int64_t i = 24; i < 28; ++i) {
    const mx::array logits = written.forward(batch.array(i));
    const mx::array kl = kernels::top_divergence(target_of(reference_, batch.array(i), 20),
                                                 mx::reshape(logits, {-1, logits.shape(-1)}));
    for (const double value : values(kl)) sum += value / 24 / 4;
  }
  EXPECT_NEAR(sum, result->held_out[result->best], 1e-4 * sum);
}

TEST_F(Distill, KeepsTheCheckpointWhereNothingIsBetter) {
  const auto before = contents();
  options_.learning_rate = 10;
  const auto result = distill(out_, reference_, random_batch(random_, reference_, 12, 16), options_, nullptr);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->best, 0u);
  EXPECT_EQ(contents(), before);
  EXPECT_LT(result->steps, 24);  // it stopped early
}

/// A checkpoint that is distilled again and again.
class DistillResumed : public Distill {
 protected:
  void SetUp() override {
    Distill::SetUp();
    options_.epochs = 4;
    fs::copy(out_, start_, fs::copy_options::recursive);
    whole_ = train(nullptr);
    whole_contents_ = contents();
    ASSERT_GT(whole_.best, 0u);
    begin_anew();
  }

  void begin_anew() {
    fs::remove_all(out_);
    fs::copy(start_, out_, fs::copy_options::recursive);
  }
  DistillResult train(const Progress& progress) {
    const auto result = distill(out_, reference_, batch_, options_, progress);
    EXPECT_TRUE(result) << result.error().message;
    return result ? *result : DistillResult();
  }
  void expect_whole(const DistillResult& result) {
    EXPECT_EQ(distill_to_json(result), distill_to_json(whole_));
    EXPECT_EQ(contents(), whole_contents_);
    EXPECT_FALSE(fs::exists(state_));
  }
  bool stop_before(double step) {
    return test::stop_where(
        [&](std::string_view what, double done) { return what == "distilling" && done == step; },
        [&](const Progress& progress) { train(progress); });
  }

  calibrate::TokenBatch batch_ = random_batch(random_, reference_, 28, 24);
  fs::path start_ = folder_.path() / "start";
  fs::path state_ = folder_.path() / ".out.distill.journal";
  DistillResult whole_;
  std::map<std::string, std::vector<std::byte>> whole_contents_;
};

TEST_F(DistillResumed, StoppedAnywhereItEndsInTheSameBytes) {
  DistillResult result;
  EXPECT_GT(
      test::stop_again_and_again(random_, 8, [&](const Progress& progress) { result = train(progress); }), 3);
  expect_whole(result);
}

TEST_F(DistillResumed, GoesOnFromTheLastCheck) {
  // A check every fourth step, the last of which ended it.
  const auto last_step = static_cast<double>(whole_.steps) - 1;
  ASSERT_TRUE(stop_before(last_step));
  double first = -1;
  expect_whole(train([&](std::string_view what, double done, double) {
    if (what == "distilling" && first < 0) first = done;
  }));
  EXPECT_EQ(first, last_step - 3);
}

/// A kill behind the swap of the folders, before the state is gone.
TEST_F(DistillResumed, WhatWasSwappedInIsNotDistilledAgain) {
  const Progress takes_away = [&](std::string_view what, double done, double) {
    if (what == "distilling" && done == 0) fs::rename(out_ / "optiq.json", folder_.path() / "optiq.json");
  };
  EXPECT_FALSE(distill(out_, reference_, batch_, options_, takes_away));  // it cannot be swapped
  const fs::path kept = folder_.path() / "state";
  fs::copy_file(state_, kept);
  fs::rename(folder_.path() / "optiq.json", out_ / "optiq.json");
  bool has_reported = false;
  const Progress progress = [&](std::string_view, double, double) { has_reported = true; };
  expect_whole(train(progress));
  fs::copy_file(kept, state_);
  expect_whole(train(progress));
  EXPECT_FALSE(has_reported);
}

TEST_F(DistillResumed, OtherWorkBeginsAnew) {
  ASSERT_TRUE(stop_before(5));
  options_.learning_rate *= 1.25;
  const DistillResult other = train(nullptr);
  const auto other_contents = contents();
  begin_anew();
  EXPECT_EQ(distill_to_json(train(nullptr)), distill_to_json(other));
  EXPECT_EQ(contents(), other_contents);
}

TEST_F(DistillResumed, TrustsNoDamagedState) {
  ASSERT_TRUE(stop_before(5));
  for (const std::string& version : test::damaged_journals(random_, state_)) {
    begin_anew();
    test::write_text(state_, version);
    expect_whole(train(nullptr));
  }
}

TEST_F(Distill, RefusesWhatCannotBe) {
  const auto expect_refused = [&](const fs::path& folder, std::int64_t sequences,
                                  const DistillOptions& options, std::string_view part) {
    const auto result =
        distill(folder, reference_, random_batch(random_, reference_, sequences, 8), options, nullptr);
    ASSERT_FALSE(result);
    EXPECT_TRUE(test::contains(result.error().message, part)) << result.error().message;
  };
  expect_refused(out_, 4, options_, "more than 4 calibration sequences, got 4");
  expect_refused(folder_.path() / "none", 12, options_, "none");
  DistillOptions bad = options_;
  bad.learning_rate = -1;
  expect_refused(out_, 12, bad, "positive learning rate");
  bad = options_;
  bad.kept_tokens = 0;
  expect_refused(out_, 12, bad, "kept token");
  bad = options_;
  bad.most_bits = 0;
  expect_refused(out_, 12, bad, "1 to 8 bits, got 0");
  expect_refused(test::golden_folder("llama"), 12, options_, "holds no optiq.json");
  const auto other = model::Model::open(test::golden_folder("qwen3")).value();
  if (other.config().vocabulary == reference_.config().vocabulary &&
      other.config().layers == reference_.config().layers)
    return;
  const auto result = distill(out_, other, random_batch(random_, reference_, 12, 8), options_, nullptr);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::bad_input);
}

}  // namespace
}  // namespace optiq::tune
