#include "optiq/tune/refine.h"

#include <gtest/gtest.h>

#include "optiq/tune/effort.h"
#include "support/arrays.h"
#include "support/contains.h"
#include "support/golden_plan.h"
#include "support/golden_sensitivity.h"
#include "support/model_folder.h"
#include "support/random_batch.h"
#include "support/seed.h"
#include "support/temporary_folder.h"

namespace optiq::tune {
namespace {

namespace fs = std::filesystem;
namespace mx = model::mx;

class Refine : public testing::Test {
 protected:
  profile::Sensitivity sensitivity(const std::function<double(std::size_t, int)>& cost) const {
    return test::sensitivity_of(reference_, cost);
  }

  Result<RefineResult> run(const profile::Sensitivity& sensitivity, std::vector<plan::Guard> guards,
                           int rounds = 2) {
    const auto budget = plan::size_budget(test::plan_of(reference_, {4, 32}, quant::Encoder::range).bytes);
    const plan::Rules rules;
    const fs::path activations;
    return refine({reference_, sensitivity, budget, rules, activations, guards, held_out_, out_},
                  {.rounds = rounds, .kept_tokens = 20, .compute = kernels::Compute::f32}, nullptr);
  }

  /// Mean KL of the checkpoint that lies in OUT, through its own forward pass, other tokens taken as one.
  double divergence_of_out() const {
    const auto written = model::Model::open(out_).value();
    double sum = 0;
    for (std::int64_t i = 0; i < held_out_.sequences; ++i) {
      const auto rows = [](const mx::array& logits) { return mx::reshape(logits, {-1, logits.shape(-1)}); };
      const mx::array tokens = held_out_.array(i);
      const auto target = kernels::top_probabilities(rows(reference_.forward(tokens)), 20);
      for (const double value : test::values(kernels::top_divergence(target, rows(written.forward(tokens)))))
        sum += value;
    }
    return sum / static_cast<double>(held_out_.sequences * held_out_.tokens);
  }

  void expect_best_in_out(const RefineResult& result) const {
    const Candidate& best = result.candidates[result.best];
    for (const Candidate& candidate : result.candidates) EXPECT_LE(best.divergence, candidate.divergence);
    EXPECT_NEAR(divergence_of_out(), best.divergence, 1e-4 * best.divergence);
    const auto verified = encode::verify_checkpoint(out_);
    ASSERT_TRUE(verified) << verified.error().message;
    EXPECT_EQ(verified->file_bytes, best.plan.bytes);
    std::size_t entries = 0;
    for (const auto& entry : fs::directory_iterator(folder_.path())) entries += entry.exists() ? 1 : 0;
    EXPECT_EQ(entries, 1u);  // no trial is left behind
  }

  Random random_{test::seed()};
  model::Model reference_ = model::Model::open(test::golden_folder("llama")).value();
  calibrate::TokenBatch held_out_ = test::random_batch(random_, reference_, 3, 20);
  test::TemporaryFolder folder_;
  fs::path out_ = folder_.path() / "out";
};

TEST_F(Refine, LeavesTheBestPlanInPlace) {
  const auto result =
      run(sensitivity([&](std::size_t, int bits) { return random_.uniform() * std::exp2(-bits); }), {});
  ASSERT_TRUE(result) << result.error().message;
  expect_best_in_out(*result);
  EXPECT_FALSE(result->corrections.empty());
}

/// Costs that praise 2 bits mislead the planner: what is shipped must not be worse than the uniform plan.
TEST_F(Refine, IsNeverWorseThanAGuard) {
  const plan::Plan uniform = test::plan_of(reference_, {4, 32}, quant::Encoder::range);
  const auto misled = sensitivity([](std::size_t i, int bits) {
    const double eight_bits_for_the_first = i == 0 ? 1.0 : 1e-3;
    return bits == 8 ? 0.0 : bits == 4 ? 0.9 * eight_bits_for_the_first : eight_bits_for_the_first;
  });
  const auto result = run(misled, {{"uniform 4x32", uniform}}, 0);
  ASSERT_TRUE(result) << result.error().message;
  ASSERT_EQ(result->candidates.size(), 2u);
  EXPECT_EQ(result->candidates[1].name, "uniform 4x32");
  expect_best_in_out(*result);
}

TEST_F(Refine, CarriesNoHopelessGuardOut) {
  const auto costs = sensitivity([&](std::size_t, int bits) { return random_.uniform() * std::exp2(-bits); });
  const auto alone = run(costs, {}, 0);
  ASSERT_TRUE(alone) << alone.error().message;
  const double measured = alone->candidates[0].divergence;
  plan::Guard near{"near", test::plan_of(reference_, {4, 32}, quant::Encoder::range)}, far = near;
  near.plan.predicted_kl = 2.9 * measured;
  far.name = "far";
  far.plan.predicted_kl = 3.1 * measured;
  const auto result = run(costs, {far, near}, 0);
  ASSERT_TRUE(result) << result.error().message;
  ASSERT_EQ(result->candidates.size(), 2u);
  EXPECT_EQ(result->candidates[1].name, "near");
}

/// Mean KL of the reference with the modules of one width as `folder` has them, other tokens taken as one.
double divergence_of_width(const model::Model& reference, const fs::path& folder, int bits,
                           const calibrate::TokenBatch& batch) {
  const auto encoded = model::Model::open(folder).value();
  const auto tensors = mx::load_safetensors((folder / "model.safetensors").string()).first;
  std::unordered_map<std::string, mx::array> weights;
  for (const auto& module : encoded.modules()) {
    const quant::Format format = encoded.format(module.name);
    if (format.bits != bits) continue;
    const auto f32 = [&](const char* name) {
      return mx::astype(tensors.at(module.name + name), mx::float32);
    };
    weights.insert_or_assign(module.name, mx::dequantize(tensors.at(module.name + ".weight"), f32(".scales"),
                                                         f32(".biases"), format.group_size, format.bits));
  }
  const auto rows = [](const mx::array& logits) { return mx::reshape(logits, {-1, logits.shape(-1)}); };
  double sum = 0;
  for (std::int64_t i = 0; i < batch.sequences; ++i) {
    const auto target = kernels::top_probabilities(rows(reference.forward(batch.array(i))), 20);
    const mx::array changed = reference.forward(batch.array(i), {.weights = &weights});
    for (const double value : test::values(kernels::top_divergence(target, rows(changed)))) sum += value;
  }
  return sum / static_cast<double>(batch.sequences * batch.tokens);
}

TEST_F(Refine, CorrectionsAreMeasuredOverPredicted) {
  const auto costs =
      sensitivity([&](std::size_t, int bits) { return (0.5 + random_.uniform()) * 0.3 * std::exp2(-bits); });
  const auto result = run(costs, {}, 1);
  ASSERT_TRUE(result) << result.error().message;
  const plan::Plan& first = result->candidates[0].plan;
  const fs::path again = folder_.path() / "again";
  ASSERT_TRUE(encode::encode_checkpoint(reference_.checkpoint(), first, {}, again));
  ASSERT_FALSE(result->corrections.empty());
  for (const auto& [bits, correction] : result->corrections) {
    double predicted = 0;
    for (const auto& module : first.modules) predicted += module.format.bits == bits ? module.cost : 0.0;
    const double expected = divergence_of_width(reference_, again, bits, held_out_) / predicted;
    EXPECT_NEAR(correction, std::clamp(expected, 1.0 / 8, 8.0), 1e-3 * correction) << bits;
  }
}

TEST_F(Refine, ReportsWhatCannotBe) {
  held_out_.ids[3] = static_cast<std::int32_t>(reference_.config().vocabulary);
  const auto result = run(sensitivity([](std::size_t, int bits) { return std::exp2(-bits); }), {});
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::bad_input);
  EXPECT_FALSE(fs::exists(out_));
}

TEST(CorrectWidths, ScalesCostsByTheNearestWidth) {
  profile::Sensitivity sensitivity;
  profile::ModuleSensitivity module{"m", 32, 64, 0, {}};
  for (const int bits : {2, 3, 4, 5, 6, 8})
    module.options.push_back({{bits, 32}, 1.0 / bits, 0.1, {2.0f, -1.0f}});
  sensitivity.modules.push_back(module);
  const auto corrected = correct_widths(sensitivity, {{3, 4.0}, {5, 0.25}});
  const double expected[] = {4, 4, 4, 0.25, 0.25, 0.25};
  for (std::size_t i = 0; i < 6; ++i) {
    const auto& option = corrected.modules[0].options[i];
    EXPECT_DOUBLE_EQ(option.cost, module.options[i].cost * expected[i]);
    EXPECT_DOUBLE_EQ(option.standard_error, 0.1 * expected[i]);
    EXPECT_NEAR(option.projections[0] * option.projections[0], 4 * expected[i], 1e-5);
  }
}

TEST(EffortNames, ParseAndGrow) {
  EXPECT_FALSE(parse_effort("slow"));
  EXPECT_TRUE(test::contains(parse_effort("slow").error().message, "expected fast, balanced or best"));
  const Recipe fast = recipe_of(parse_effort("fast").value()),
               balanced = recipe_of(parse_effort("balanced").value()),
               best = recipe_of(parse_effort("best").value());
  const auto model = model::Model::open(test::golden_folder("llama")).value();
  const auto seconds = [&](const Recipe& recipe) {
    return estimate_seconds(model, recipe, 16, 2, 18).value();
  };
  EXPECT_LT(fast.sequences, balanced.sequences);
  EXPECT_GT(seconds(fast), 0);
  EXPECT_LT(balanced.refine_rounds, best.refine_rounds);
  EXPECT_GT(best.distill_epochs, 0);
}

}  // namespace
}  // namespace optiq::tune
