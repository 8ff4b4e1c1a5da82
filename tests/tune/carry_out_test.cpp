#include "optiq/tune/carry_out.h"

#include <gtest/gtest.h>

#include "optiq/profile/importance.h"
#include "support/golden_sensitivity.h"
#include "support/model_folder.h"
#include "support/random_batch.h"
#include "support/seed.h"
#include "support/stops.h"
#include "support/temporary_folder.h"

namespace optiq::tune {
namespace {

namespace fs = std::filesystem;

/// Plans, rounding and distillation of a golden model, done whole and then again and again.
class CarryOut : public testing::Test {
 protected:
  void SetUp() override {
    profile::Importance importance;
    for (const auto& module : reference_.modules())
      importance[module.name] = std::vector<float>(static_cast<std::size_t>(module.in_features), 1.0f);
    ASSERT_TRUE(
        profile::write_importance(activations_, importance, test::random_batch(random_, reference_, 16, 16)));
    options_.refine = {.rounds = 2, .kept_tokens = 20, .compute = kernels::Compute::f32};
    options_.round = {.most_bits = 8, .steps = 8, .kept_tokens = 20, .compute = kernels::Compute::f32};
    options_.distill = {.epochs = 2,
                        .learning_rate = 3e-3,
                        .kept_tokens = 20,
                        .most_bits = 8,
                        .compute = kernels::Compute::f32};
    whole_ = run(nullptr);
    whole_content_ = content();
    begin_anew();
  }

  void begin_anew() {
    fs::remove_all(out_);
    ASSERT_TRUE(forget_work(out_));
  }
  CarriedOut run(const Progress& progress) {
    const auto done =
        carry_out({reference_, sensitivity_, budget_, rules_, activations_, guards_, held_out_, out_},
                  options_, progress);
    EXPECT_TRUE(done) << done.error().message;
    return done ? *done : CarriedOut();
  }
  std::map<std::string, std::string> content() const {
    std::map<std::string, std::string> all;
    for (const auto& entry : fs::directory_iterator(out_))
      all[entry.path().filename().string()] = read_text_file(entry.path()).value();
    return all;
  }
  void expect_whole(const CarriedOut& done) {
    EXPECT_EQ(content(), whole_content_);
    ASSERT_TRUE(done.rounded && done.distilled);
    EXPECT_EQ(round_to_json(*done.rounded), round_to_json(*whole_.rounded));
    EXPECT_EQ(distill_to_json(*done.distilled), distill_to_json(*whole_.distilled));
    EXPECT_EQ(done.refined.best, whole_.refined.best);
    EXPECT_EQ(done.refined.corrections, whole_.refined.corrections);
    ASSERT_EQ(done.refined.candidates.size(), whole_.refined.candidates.size());
    for (std::size_t i = 0; i < done.refined.candidates.size(); ++i) {
      EXPECT_EQ(done.refined.candidates[i].name, whole_.refined.candidates[i].name);
      EXPECT_EQ(done.refined.candidates[i].divergence, whole_.refined.candidates[i].divergence);
    }
  }
  /// Stops in front of a piece of work; what the same call then does until it ends.
  std::set<std::string> work_behind(std::string_view stage, double done) {
    EXPECT_TRUE(
        test::stop_where([&](std::string_view what, double at) { return what == stage && at == done; },
                         [&](const Progress& progress) { run(progress); }));
    return work_left();
  }
  std::set<std::string> work_left() {
    std::set<std::string> work;
    expect_whole(run([&](std::string_view what, double, double) { work.emplace(what); }));
    return work;
  }

  Random random_{test::seed()};
  model::Model reference_ = model::Model::open(test::golden_folder("llama")).value();
  profile::Sensitivity sensitivity_ = test::sensitivity_of(
      reference_, [this](std::size_t, int bits) { return random_.uniform() * std::exp2(-bits); });
  plan::Budget budget_ = plan::size_budget(test::plan_of(reference_, {4, 32}, quant::Encoder::range).bytes);
  plan::Rules rules_;
  std::vector<plan::Guard> guards_{
      {"uniform 4x32", test::plan_of(reference_, {4, 32}, quant::Encoder::range)},
      {"uniform 2x32", test::plan_of(reference_, {2, 32}, quant::Encoder::range)}};
  calibrate::TokenBatch held_out_ = test::random_batch(random_, reference_, 3, 20);
  test::TemporaryFolder folder_;
  fs::path activations_ = folder_.path() / "a.importance.safetensors";
  fs::path out_ = folder_.path() / "out";
  CarryOutOptions options_;
  CarriedOut whole_;
  std::map<std::string, std::string> whole_content_;
};

TEST_F(CarryOut, StoppedAnywhereItEndsInTheSameBytes) {
  CarriedOut done;
  EXPECT_GT(test::stop_again_and_again(random_, 12, [&](const Progress& progress) { done = run(progress); }),
            2);
  expect_whole(done);
  ASSERT_TRUE(forget_work(out_));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), {}),
            2);  // nothing but `out` and activations
}

TEST_F(CarryOut, DoesNothingTwice) {
  EXPECT_EQ(work_behind("learning to round", 0),
            (std::set<std::string>{"asking the reference", "learning to round", "distilling"}));
  begin_anew();
  EXPECT_EQ(work_behind("distilling", 0), (std::set<std::string>{"asking the reference", "distilling"}));
  // As after a kill behind it: all is known.
  EXPECT_EQ(work_left(), std::set<std::string>());
}

/// In front of the second guard all other plans are measured.
TEST_F(CarryOut, MeasuresNoPlanTwice) {
  int encodings = 0;
  const auto count = [&](std::string_view what, double done) {
    encodings += what == "encoding" && done == 0 ? 1 : 0;
    return false;
  };
  test::stop_where(count, [&](const Progress& progress) { run(progress); });
  const int all = std::exchange(encodings, 0);
  ASSERT_GE(all, 3);
  begin_anew();
  ASSERT_TRUE(test::stop_where(
      [&](std::string_view what, double done) { return !count(what, done) && encodings == all; },
      [&](const Progress& progress) { run(progress); }));
  encodings = 0;
  CarriedOut done;
  test::stop_where(count, [&](const Progress& progress) { done = run(progress); });
  EXPECT_EQ(encodings, 1);
  expect_whole(done);
}

/// Another checkpoint came into OUT meanwhile: the best plan is encoded again, and all behind it done again.
TEST_F(CarryOut, NoticesWhatOthersDidToTheOutput) {
  ASSERT_TRUE(test::stop_where([](std::string_view what, double) { return what == "distilling"; },
                               [&](const Progress& progress) { run(progress); }));
  const plan::Plan other = test::plan_of(reference_, {8, 32}, quant::Encoder::rtn);
  ASSERT_TRUE(encode::encode_checkpoint(reference_.checkpoint(), other, {}, out_));
  // A stage that was not kept left the checkpoint as the one before it did.
  EXPECT_EQ(work_left().contains("learning to round"), whole_.rounded->is_kept);
  fs::remove_all(out_);
  EXPECT_EQ(work_left().contains("distilling"), whole_.rounded->is_kept || whole_.distilled->best > 0);
}

TEST_F(CarryOut, OtherOptionsBeginAnew) {
  ASSERT_TRUE(test::stop_where([](std::string_view what, double) { return what == "distilling"; },
                               [&](const Progress& progress) { run(progress); }));
  ++options_.round->steps;
  const CarriedOut other = run(nullptr);
  const auto other_content = content();
  begin_anew();
  EXPECT_EQ(round_to_json(*run(nullptr).rounded), round_to_json(*other.rounded));
  EXPECT_EQ(content(), other_content);
}

/// Either it goes on, or it says what is wrong with the file; never anything else.
TEST_F(CarryOut, TrustsNoDamagedJournal) {
  const fs::path journal = folder_.path() / ".out.tune.journal";
  ASSERT_TRUE(test::stop_where([](std::string_view what, double) { return what == "distilling"; },
                               [&](const Progress& progress) { run(progress); }));
  for (const std::string& version : test::damaged_journals(random_, journal)) {
    test::write_text(journal, version);
    const auto done =
        carry_out({reference_, sensitivity_, budget_, rules_, activations_, guards_, held_out_, out_},
                  options_, nullptr);
    ASSERT_TRUE(done) << done.error().message;
    expect_whole(*done);
  }
}

}  // namespace
}  // namespace optiq::tune
