#include "optiq/runtime/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "support/seed.h"
#include "support/tiny_model.h"

namespace optiq::runtime {
namespace {

using test::Doubles;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> random_logits(Random& random, std::size_t count) {
  std::vector<float> logits(count);
  for (float& logit : logits) logit = static_cast<float>(2 * random.normal());
  return logits;
}

/// The distribution that SamplingOptions describes, each rule by its definition over all tokens. No two
/// logits are equal.
Doubles expected_distribution(const std::vector<float>& logits, const std::vector<std::int32_t>& seen,
                              const SamplingOptions& o) {
  const std::size_t n = logits.size();
  Doubles p(n);
  const auto recent = std::min(seen.size(), static_cast<std::size_t>(o.repetition_context));
  for (std::size_t i = 0; i < n; ++i) {
    p[i] = static_cast<double>(logits[i]);
    const bool was_seen = std::count(seen.end() - static_cast<std::ptrdiff_t>(recent), seen.end(),
                                     static_cast<std::int32_t>(i)) > 0;
    if (was_seen) p[i] *= p[i] > 0 ? 1 / o.repetition_penalty : o.repetition_penalty;
    p[i] /= o.temperature;
  }
  p = test::log_softmax(p);
  for (double& x : p) x = std::exp(x);
  const auto keep_if = [&](const auto& rule) {
    Doubles kept(n);
    for (std::size_t i = 0; i < n; ++i) kept[i] = rule(i) ? p[i] : 0;
    const double sum = std::accumulate(kept.begin(), kept.end(), 0.0);
    for (double& x : kept) x /= sum;
    p = kept;
  };
  const auto likelier = [&](std::size_t i) {
    return std::count_if(p.begin(), p.end(), [&](double x) { return x > p[i]; });
  };
  const auto mass_before = [&](std::size_t i) {
    return std::accumulate(p.begin(), p.end(), 0.0,
                           [&](double sum, double x) { return x > p[i] ? sum + x : sum; });
  };
  if (o.top_k > 0) keep_if([&](std::size_t i) { return likelier(i) < o.top_k; });
  if (o.top_p < 1) keep_if([&](std::size_t i) { return mass_before(i) < o.top_p; });
  keep_if([&](std::size_t i) { return p[i] >= o.min_p * *std::max_element(p.begin(), p.end()); });
  return p;
}

void expect_distribution(const std::vector<float>& logits, const std::vector<std::int32_t>& seen,
                         const SamplingOptions& options) {
  const Doubles expected = expected_distribution(logits, seen, options);
  std::vector<int> counts(logits.size(), 0);
  Sampler sampler(options);
  for (int i = 0; i < 20000; ++i) ++counts[static_cast<std::size_t>(sampler.next(logits, seen))];
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (expected[i] == 0) {
      EXPECT_EQ(counts[i], 0) << "token " << i;
    }
  }
  const auto left = std::count_if(expected.begin(), expected.end(), [](double p) { return p > 0; });
  if (left > 1) {
    EXPECT_LT(test::chi_square_deviation(counts, expected), 7);
  }
}

TEST(Sampler, DrawsFromTheDistributionThatItsOptionsDescribe) {
  Random random(test::seed());
  const SamplingOptions all[] = {
      {.temperature = 1},
      {.temperature = 0.4},
      {.temperature = 3},
      {.temperature = 1, .top_k = 1},
      {.temperature = 1, .top_k = 4},
      {.temperature = 1, .top_k = 100},
      {.temperature = 1, .top_p = 1e-9},
      {.temperature = 1, .top_p = 0.5},
      {.temperature = 1, .top_p = 0.9},
      {.temperature = 1, .min_p = 0.1},
      {.temperature = 1, .min_p = 1},
      {.temperature = 1, .repetition_penalty = 1.8},
      {.temperature = 1, .repetition_penalty = 0.5, .repetition_context = 2},
      {.temperature = 1.3, .top_k = 7, .top_p = 0.85, .min_p = 0.05, .repetition_penalty = 1.2},
  };
  for (SamplingOptions options : all) {
    options.seed = random.next();
    SCOPED_TRACE(fmt::format("t {} k {} p {} min {} penalty {} seed {}", options.temperature, options.top_k,
                             options.top_p, options.min_p, options.repetition_penalty, options.seed));
    expect_distribution(random_logits(random, 12), {1, 5, 5, 7, 11, 2}, options);
  }
}

TEST(Sampler, TemperatureZeroTakesTheLikeliestFirstOfEqualOnes) {
  Random random(test::seed());
  Sampler sampler({});
  for (int trial = 0; trial < 50; ++trial) {
    const auto logits = random_logits(random, 100);
    EXPECT_EQ(sampler.next(logits, {}), std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  EXPECT_EQ(sampler.next(std::vector<float>{1, 3, 3, 2}, {}), 1);
}

TEST(Sampler, ARepeatedTokenLosesAtTemperatureZero) {
  Sampler sampler({.repetition_penalty = 2, .repetition_context = 2});
  const std::vector<float> positive{3, 4, 1}, negative{-3, -2, -9};
  EXPECT_EQ(sampler.next(positive, std::vector<std::int32_t>{1}), 0);
  EXPECT_EQ(sampler.next(negative, std::vector<std::int32_t>{1}), 0);
  EXPECT_EQ(sampler.next(positive, std::vector<std::int32_t>{1, 2, 2}), 1);  // seen too long ago
}

TEST(Sampler, NearlyZeroTemperatureIsGreedyAndAHugeOneUniform) {
  Random random(test::seed());
  const auto logits = random_logits(random, 20);
  Sampler cold({.temperature = 1e-300, .seed = 1});
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(cold.next(logits, {}), std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  Sampler hot({.temperature = 1e300, .seed = test::seed()});
  std::vector<int> counts(20, 0);
  for (int i = 0; i < 20000; ++i) ++counts[static_cast<std::size_t>(hot.next(logits, {}))];
  EXPECT_LT(test::chi_square_deviation(counts, Doubles(20, 0.05)), 7);
}

TEST(Sampler, ASeedRepeatsItsDraws) {
  Random random(test::seed());
  const auto logits = random_logits(random, 1000);
  const auto draws = [&](std::uint64_t seed) {
    Sampler sampler({.temperature = 1, .seed = seed});
    std::vector<std::int32_t> tokens;
    for (int i = 0; i < 50; ++i) tokens.push_back(sampler.next(logits, {}));
    return tokens;
  };
  EXPECT_EQ(draws(7), draws(7));
  EXPECT_NE(draws(7), draws(8));
}

TEST(Sampler, NanAndInfinityNeverDerailIt) {
  for (const double temperature : {0.0, 1.0}) {
    SCOPED_TRACE(temperature);
    Sampler sampler({.temperature = temperature, .seed = 5});
    for (int i = 0; i < 200; ++i) {
      EXPECT_EQ(sampler.next(std::vector<float>{kNan, 1, kNan}, {}), 1);
      EXPECT_EQ(sampler.next(std::vector<float>{0, 5, kInfinity, 9}, {}), 2);
      EXPECT_EQ(sampler.next(std::vector<float>{-kInfinity, 1, -kInfinity, kNan}, {}), 1);
      EXPECT_EQ(sampler.next(std::vector<float>{kNan, kNan}, {}), 0);
    }
    EXPECT_LT(sampler.next(std::vector<float>{-kInfinity, -kInfinity}, {}), 2);
  }
}

TEST(Sampler, OptionsOutsideTheirRangesAreUsageErrors) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  const std::pair<SamplingOptions, std::string_view> bad[] = {
      {{.temperature = -0.1}, "temperature"},
      {{.temperature = nan}, "temperature"},
      {{.temperature = infinity}, "temperature"},
      {{.top_k = -1}, "top-k"},
      {{.top_p = 0}, "top-p"},
      {{.top_p = 1.01}, "top-p"},
      {{.top_p = nan}, "top-p"},
      {{.min_p = -0.1}, "min-p"},
      {{.min_p = 1.1}, "min-p"},
      {{.min_p = nan}, "min-p"},
      {{.repetition_penalty = 0}, "repetition penalty"},
      {{.repetition_penalty = infinity}, "repetition penalty"},
      {{.repetition_penalty = nan}, "repetition penalty"},
      {{.repetition_context = -1}, "repetition context"},
  };
  for (const auto& [options, name] : bad) {
    const Status status = check_sampling(options);
    ASSERT_FALSE(status) << name;
    EXPECT_EQ(status.error().code, ErrorCode::usage);
    EXPECT_TRUE(status.error().message.starts_with(name)) << status.error().message;
  }
  EXPECT_TRUE(check_sampling({}));
  EXPECT_TRUE(
      check_sampling({.temperature = 2, .top_k = 5, .top_p = 1, .min_p = 1, .repetition_penalty = 0.5}));
}

}  // namespace
}  // namespace optiq::runtime
