#include "optiq/compare/choose_folds.h"

#include <gtest/gtest.h>

#include "optiq/evaluate/measure.h"
#include "optiq/profile/importance.h"
#include "support/golden_plan.h"
#include "support/random_batch.h"
#include "support/seed.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace optiq::compare {
namespace {

namespace mx = model::mx;

/// Whatever the random model makes of the foldings, what is kept is the best of what was tried, and each step
/// paid.
TEST(ChooseFolds, KeepsWhatLowersDivergenceAndNothingElse) {
  Random random(test::seed());
  const test::TemporaryFolder folder;
  test::ModelFolder content = test::ModelFolder::golden("llama");
  for (auto& [name, tensor] : content.tensors) {
    if (!name.ends_with("layernorm.weight")) continue;
    std::vector<float> factors(tensor.size());
    for (float& factor : factors) factor = static_cast<float>(std::exp(1.5 * random.normal()));
    tensor = mx::astype(tensor * mx::array(factors.begin(), tensor.shape()), mx::bfloat16);
    tensor.eval();
  }
  for (auto& [name, tensor] : content.tensors) tensor = mx::astype(tensor, mx::bfloat16);
  const auto model = test::open_model(content, folder.path() / "model");
  const auto calibration = test::random_batch(random, model, 6, 24);
  const auto held_out = test::random_batch(random, model, 8, 24);
  const auto activations = folder.path() / "activations.safetensors";
  const auto importance =
      profile::measure_importance(model, calibration, kernels::Compute::f32, {}, nullptr).value();
  ASSERT_TRUE(profile::write_importance(activations, importance, calibration));
  const plan::Plan plan = test::plan_of(model, {3, 32}, quant::Encoder::rtn);
  fold::Options options;
  options.format = {3, 32};
  const auto found =
      choose_folds(plan, model, activations, held_out, options, folder.path() / "scratch", nullptr);
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "scratch"));
  ASSERT_EQ(found->trials.size(), 4u);  // none, r1, r2, awq
  EXPECT_TRUE(found->trials.front().folds.empty());
  double best = found->trials.front().kl.mean;
  std::vector<fold::Fold> kept;
  for (std::size_t i = 1; i < found->trials.size(); ++i) {
    const FoldTrial& trial = found->trials[i];
    EXPECT_EQ(trial.folds.size(), kept.size() + 1);
    EXPECT_NEAR(trial.difference.mean, trial.kl.mean - best, 1e-9);
    EXPECT_EQ(trial.kept, trial.difference.mean + trial.difference.standard_error < 0);
    if (!trial.kept) continue;
    best = trial.kl.mean;
    kept = trial.folds;
  }
  EXPECT_EQ(found->folds, kept);

  // What is said of the first trial is what the plan costs.
  const auto plain = evaluate::measure_trial({plan, model, activations}, model, std::span(&held_out, 1),
                                             folder.path() / "plain", nullptr);
  ASSERT_TRUE(plain);
  EXPECT_DOUBLE_EQ(plain->front().distance.kl.mean, found->trials.front().kl.mean);
}

TEST(ChooseFolds, LeavesOutWhatAModelCannotTake) {
  Random random(test::seed());
  const test::TemporaryFolder folder;
  const auto model = test::golden_model("qwen2-tied");
  const auto batch = test::random_batch(random, model, 3, 24);
  const auto activations = folder.path() / "activations.safetensors";
  const auto importance = profile::measure_importance(model, batch, kernels::Compute::f32, {}, nullptr).value();
  ASSERT_TRUE(profile::write_importance(activations, importance, batch));
  const auto found = choose_folds(test::plan_of(model, {4, 32}, quant::Encoder::rtn), model, activations,
                                  batch, {}, folder.path() / "scratch", nullptr);
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(found->trials.size(), 3u);
  for (const FoldTrial& trial : found->trials)
    EXPECT_EQ(std::ranges::find(trial.folds, fold::Fold::r1), trial.folds.end());
}

}  // namespace
}  // namespace optiq::compare
