// Weights of tokens against gradients by differences, and what is made of them.
#include "optiq/profile/token_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "bench.h"
#include "optiq/profile/grams.h"
#include "support/seed.h"

namespace optiq::profile {
namespace {

constexpr std::int64_t kTokens = 4;

class TokenWeighing : public testing::TestWithParam<const char*> {
 protected:
  /// Σ_t log p(label_t) where a module's output has this added to it.
  [[nodiscard]] double likelihood(std::int64_t sequence, const std::string& module,
                                  const mx::array& shift) const {
    const std::unordered_map<std::string, mx::array> shifts{{module, shift}};
    model::Pass pass;
    pass.shifts = &shifts;
    const auto rows = test::logits_of(tiny_.model, tiny_.row(sequence), pass);
    const auto labels = labels_of(tiny_, sequence).front();
    double sum = 0;
    for (std::size_t t = 0; t < rows.size(); ++t)
      sum += test::log_softmax(rows[t])[static_cast<std::size_t>(labels[t])];
    return sum;
  }

  /// Root mean square over channels of the gradient at each token of a module's output, by differences; all
  /// sequences.
  [[nodiscard]] Doubles gradient_sizes(const std::string& module) const {
    const auto shape = std::ranges::find(tiny_.model.modules(), module, &model::ModuleShape::name);
    const auto width = static_cast<std::size_t>(shape->out_features);
    constexpr double step = 1.0 / 128;
    Doubles sizes;
    for (std::int64_t sequence = 0; sequence < tiny_.batch.sequences; ++sequence) {
      for (std::size_t t = 0; t < kTokens; ++t) {
        double sum = 0;
        for (std::size_t channel = 0; channel < width; ++channel) {
          std::vector<float> shift(kTokens * width, 0.0f);
          const auto at = [&](double value) {
            shift[t * width + channel] = static_cast<float>(value);
            const mx::Shape all{1, kTokens, static_cast<int>(width)};
            return likelihood(sequence, module, mx::array(shift.begin(), all));
          };
          const double slope = (at(step) - at(-step)) / (2 * step);
          sum += slope * slope;
        }
        sizes.push_back(std::sqrt(sum / static_cast<double>(width)));
      }
    }
    return sizes;
  }

  /// What the weights shall be of an input that these modules read.
  [[nodiscard]] Doubles expected(const std::vector<std::string>& modules) const {
    Doubles weights(tiny_.batch.ids.size(), 0.0);
    for (const std::string& module : modules) {
      const Doubles sizes = gradient_sizes(module);
      const double mean =
          std::accumulate(sizes.begin(), sizes.end(), 0.0) / static_cast<double>(sizes.size());
      for (std::size_t i = 0; i < sizes.size(); ++i)
        weights[i] += sizes[i] / mean / static_cast<double>(modules.size());
    }
    return weights;
  }

  Random random_{test::seed()};
  TinyBench tiny_{GetParam(), random_, 2, kTokens};
};

INSTANTIATE_TEST_SUITE_P(Goldens, TokenWeighing, testing::Values("llama", "llama-tied-biased", "phi3-window"),
                         test::golden_name);

/// Inputs of one module, of several, and of the head.
TEST_P(TokenWeighing, WeightsAreTheSizesOfGradientsAtTheOutputs) {
  const TokenWeights weights = tiny_.fisher(quant::Encoder::gptq).weights;
  const bool is_fused = std::string(GetParam()) == "phi3-window";
  const std::string attention = "model.layers.0.self_attn.", mlp = "model.layers.1.mlp.";
  const std::string first = attention + (is_fused ? "qkv_proj" : "q_proj");
  const auto& modules = tiny_.model.modules();
  const bool is_tied = tiny_.model.config().tied_embeddings;
  const std::vector<std::vector<std::string>> inputs{
      is_fused ? std::vector{first} : std::vector{first, attention + "k_proj", attention + "v_proj"},
      {attention + "o_proj"},
      {mlp + "down_proj"},
      {is_tied ? modules.front().name : modules.back().name}};
  for (const auto& readers : inputs) {
    const std::vector<float>& actual = weights.at(readers.front());
    const Doubles reference = expected(readers);
    // bf16 rounds by 2^-9; differences of f32 passes are less exact.
    EXPECT_TRUE(
        test::close(Doubles(actual.begin(), actual.end()), reference, 1e-2 * test::largest(reference)))
        << readers.front();
  }
  EXPECT_EQ(weights.size(), static_cast<std::size_t>(4 * tiny_.model.config().layers + 1));
  EXPECT_TRUE(tiny_.fisher(quant::Encoder::range).weights.empty());
}

/// More sequences than go through a block together, and a rest.
TEST_P(TokenWeighing, EverySequenceHasItsOwn) {
  const TinyBench all(GetParam(), random_, 7, 200);
  const TokenWeights weights = all.fisher(quant::Encoder::gptq).weights;
  EXPECT_EQ(weights, all.fisher(quant::Encoder::gptq).weights);
  for (const auto& [module, values] : weights) {
    ASSERT_EQ(values.size(), all.batch.ids.size()) << module;
    EXPECT_NEAR(std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size()), 1,
                2e-3);
    for (std::ptrdiff_t sequence = 1; sequence < 7; ++sequence)
      EXPECT_FALSE(std::equal(values.begin(), values.begin() + 200, values.begin() + 200 * sequence))
          << module;
  }
}

TEST_P(TokenWeighing, GramsAreWeightedMeans) {
  const TinyBench tiny(GetParam(), random_, 150, 20);
  TokenWeights weights;
  const std::string owner = "model.layers.1.mlp.down_proj";
  for (std::size_t i = 0; i < tiny.batch.ids.size(); ++i)
    weights[owner].push_back(static_cast<float>(std::exp(random_.normal())));
  std::map<std::string, Doubles> inputs;
  for (std::int64_t sequence = 0; sequence < tiny.batch.sequences; ++sequence) {
    for (const auto& [module, values] : tapped_inputs(tiny, sequence))
      inputs[module].insert(inputs[module].end(), values.begin(), values.end());
  }
  const auto visit = [&](std::int64_t layer, const Grams& grams) -> Result<Replacements> {
    if (layer != 1) return Replacements{};
    for (const std::string& module : {owner, std::string("model.layers.1.self_attn.o_proj")}) {
      const auto& gram = *grams.at(module);
      const auto width = static_cast<std::size_t>(gram.in_features());
      const Doubles& rows = inputs.at(module);
      Doubles reference(width * width, 0.0);
      for (std::size_t row = 0; row < rows.size() / width; ++row) {
        const double weight = module == owner ? static_cast<double>(weights[owner][row]) : 1.0;
        for (std::size_t i = 0; i < width; ++i) {
          for (std::size_t j = 0; j < width; ++j) {
            reference[i * width + j] += weight * rows[row * width + i] * rows[row * width + j] /
                                        static_cast<double>(rows.size() / width);
          }
        }
      }
      const std::vector<float> moments = gram.moments();
      EXPECT_TRUE(
          test::close(Doubles(moments.begin(), moments.end()), reference, 1e-5 * test::largest(reference)))
          << module;
    }
    return Replacements{};
  };
  const WalkOptions options{.compute = kernels::Compute::f32, .weights = &weights};
  ASSERT_TRUE(walk_grams(tiny.model, tiny.batch, options, visit, nullptr));
}

}  // namespace
}  // namespace optiq::profile
