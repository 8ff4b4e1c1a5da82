// Perplexity through the engine's cache against the graphs', which have none.
#include "optiq/runtime/cached_quality.h"

#include <gtest/gtest.h>

#include "support/seed.h"
#include "support/tiny_model.h"

namespace optiq::runtime {
namespace {

using kernels::cpu::CacheStorage;

TEST(CachedQuality, EqualsTheGraphsButForWhatTheCacheRounds) {
  Random random(test::seed());
  const model::Model model = test::golden_model("llama");
  std::vector<std::int32_t> tokens(700);
  for (std::int32_t& token : tokens) token = static_cast<std::int32_t>(random.below(64));
  const evaluate::Options options{.context = 300};
  const auto expected = evaluate::evaluate_text(model, nullptr, tokens, options, nullptr).value();
  const auto measured = [&](CacheStorage storage) {
    return evaluate_cached(model, tokens, options, {kernels::Compute::f32, storage}, nullptr).value();
  };
  const auto exact = measured(CacheStorage::f32), packed = measured(CacheStorage::packed3);
  EXPECT_EQ(exact.windows, expected.windows);
  EXPECT_EQ(exact.tokens, expected.tokens);
  EXPECT_NEAR(exact.perplexity, expected.perplexity, 1e-5 * expected.perplexity);
  EXPECT_NEAR(exact.perplexity_standard_error, expected.perplexity_standard_error,
              1e-4 * expected.perplexity);
  EXPECT_NE(packed.perplexity, exact.perplexity) << "what waits to be packed is in f16";
  EXPECT_NEAR(packed.perplexity, expected.perplexity, 0.1 * expected.perplexity);
}

TEST(CachedQuality, RefusesWhatEvaluateTextRefuses) {
  const model::Model model = test::golden_model("llama");
  const auto error = [&](const std::vector<std::int32_t>& tokens, const evaluate::Options& options) {
    return evaluate_cached(model, tokens, options, {}, nullptr).error().code;
  };
  EXPECT_EQ(error({1}, {}), ErrorCode::bad_input);
  EXPECT_EQ(error({1, 64}, {}), ErrorCode::bad_input);
  EXPECT_EQ(error({1, 2}, {.context = 1}), ErrorCode::usage);
}

}  // namespace
}  // namespace optiq::runtime
