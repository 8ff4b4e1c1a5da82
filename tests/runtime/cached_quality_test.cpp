// Perplexity through the engine's cache against the graphs', which have none.
#include "optiq/runtime/cached_quality.h"

#include <gtest/gtest.h>

#include "support/seed.h"
#include "support/tiny_model.h"
#include "support/token_ids.h"

namespace optiq::runtime {
namespace {

using kernels::cpu::CacheStorage;

TEST(CachedQuality, EqualsTheGraphsButForWhatTheCacheRounds) {
  Random random(test::seed());
  const model::Model model = test::golden_model("llama");
  const test::Ids tokens = test::random_ids(random, 700);
  const evaluate::Options options{.context = 300};
  const auto expected = evaluate::evaluate_text(model, nullptr, tokens, options, nullptr).value();
  const auto measured = [&](CacheStorage storage) {
    return evaluate_cached(model, nullptr, tokens, options, {kernels::Compute::f32, storage}, nullptr)
        .value();
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

/// The same sequence through graphs: an exact cache is at no distance, and a packed one at what logits of a
/// packed engine are from theirs.
TEST(CachedQuality, MeasuresTheDistanceToAReference) {
  Random random(test::seed());
  const test::TemporaryFolder folder;
  const model::Model model =
      test::open_model(test::resized(test::ModelFolder::golden("llama"), random, 64, 512), folder.path());
  const test::Ids tokens = test::random_ids(random, 400);
  const evaluate::Options options{.context = 400};
  const auto measured = [&](CacheStorage storage) {
    return evaluate_cached(model, &model, tokens, options, {kernels::Compute::f32, storage}, nullptr).value();
  };
  const auto exact = measured(CacheStorage::f32), packed = measured(CacheStorage::packed3);
  ASSERT_TRUE(exact.has_reference && packed.has_reference);
  EXPECT_LT(exact.distance.kl.mean, 1e-9);
  EXPECT_EQ(exact.distance.top1_agreement.mean, 1);

  const std::vector<test::Doubles> reference = test::logits_of(model, tokens);
  engine::Engine engine(model, {kernels::Compute::f32, CacheStorage::packed3});
  double kl = 0, agreements = 0;
  for (std::size_t first = 0; first < 399; first += kCachedStep) {
    const std::size_t count = std::min<std::size_t>(kCachedStep, 399 - first);
    const auto logits = engine.feed_all(std::span(tokens).subspan(first, count)).value();
    const std::size_t width = logits.size() / count;
    for (std::size_t i = 0; i < count; ++i) {
      const test::Doubles row(logits.begin() + static_cast<std::ptrdiff_t>(i * width),
                              logits.begin() + static_cast<std::ptrdiff_t>((i + 1) * width));
      const test::Doubles& expected = reference[first + i];
      kl += test::kl_divergence(expected, row) / 399;
      const auto best = [](const test::Doubles& x) { return std::ranges::max_element(x) - x.begin(); };
      agreements += best(expected) == best(row) ? 1.0 / 399 : 0;
    }
  }
  EXPECT_NEAR(packed.distance.kl.mean, kl, 1e-4 * kl);
  EXPECT_NEAR(packed.distance.top1_agreement.mean, agreements, 1.5 / 399);  // a tie may fall either way
}

TEST(CachedQuality, RefusesWhatEvaluateTextRefuses) {
  const model::Model model = test::golden_model("llama");
  const auto error = [&](const std::vector<std::int32_t>& tokens, const evaluate::Options& options) {
    return evaluate_cached(model, nullptr, tokens, options, {}, nullptr).error().code;
  };
  EXPECT_EQ(error({1}, {}), ErrorCode::bad_input);
  EXPECT_EQ(error({1, 64}, {}), ErrorCode::bad_input);
  EXPECT_EQ(error({1, 2}, {.context = 1}), ErrorCode::usage);
}

}  // namespace
}  // namespace optiq::runtime
