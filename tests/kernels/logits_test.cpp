#include <set>

#include "kernels/reference.h"
#include "optiq/kernels/ops.h"

namespace optiq::kernels {
namespace {

using namespace optiq::test;

Doubles picked(const Doubles& rows, const Doubles& labels, std::size_t width) {
  Doubles y;
  for (std::size_t r = 0; r < labels.size(); ++r)
    y.push_back(rows[r * width + static_cast<std::size_t>(labels[r])]);
  return y;
}

TEST(LabelLogProbabilities, MatchTheDoubleReferenceAtAnyVocabulary) {
  Random random(31);
  for (const int width : {1, 17, 301, 200003}) {
    const mx::array logits = random_array(random, {4, width}, mx::float32, 3),
                    labels = random_indices(random, {4}, width);
    const Doubles expected = picked(reference::log_softmax(values(logits), width), values(labels), width);
    // One rounding of the result (≤ 32) and the exponential's own 2 ulp.
    EXPECT_TRUE(close(label_log_probabilities(logits, labels), expected, 32 * kF32Epsilon + 2e-7)) << width;
  }
}

/// 2^18 equal logits: a running f32 sum would stall at 2^24 of 1e-2 steps; compensated it is exact.
TEST(LabelLogProbabilities, LongRowsKeepFullAccuracy) {
  const int width = 1 << 18;
  std::vector<float> data(static_cast<std::size_t>(width), -12.0f);
  data[5] = 0.0f;
  const mx::array logits(data.begin(), {1, width});
  const double expected = -std::log1p((width - 1) * std::exp(-12.0));
  EXPECT_TRUE(close(label_log_probabilities(logits, mx::array({5})), {expected}, 2e-7));
}

TEST(LabelLogProbabilities, GradientMatchesCentralDifferences) {
  Random random(32);
  const mx::array logits = random_array(random, {3, 23}), labels = random_indices(random, {3}, 23);
  expect_vjp([&](const auto& in) { return label_log_probabilities(in[0], labels); },
             [&](const auto& in) { return picked(reference::log_softmax(in[0], 23), values(labels), 23); },
             {logits}, random_array(random, {3}), 2e-6);
}

TEST(LabelLogProbabilities, LabelsOutsideTheVocabularyGiveNaN) {
  const Doubles y = values(label_log_probabilities(mx::zeros({3, 4}), mx::array({4, -1, 0})));
  EXPECT_TRUE(std::isnan(y[0]) && std::isnan(y[1]));
  EXPECT_NEAR(y[2], -std::log(4.0), 1e-7);
}

TEST(KlDivergence, MatchesTheDoubleReference) {
  Random random(33);
  for (const int width : {2, 301, 50000}) {
    for (const double distance : {30.0, 1.0, 1e-2, 1e-3}) {
      const mx::array p = random_array(random, {4, width}, mx::float32, 2);
      const mx::array q = mx::add(p, random_array(random, {4, width}, mx::float32, distance));
      const Doubles expected = reference::kl_divergence(values(p), values(q), width);
      EXPECT_TRUE(close(kl_divergence(p, q), expected, 2e-5 * largest(expected)))
          << width << " at " << distance;
    }
  }
}

TEST(KlDivergence, IsZeroForEqualRowsWhateverTheirOffset) {
  Random random(34);
  const mx::array p = random_array(random, {2, 1000});
  EXPECT_TRUE(close(kl_divergence(p, p), {0, 0}, 0));
  EXPECT_TRUE(close(kl_divergence(p, mx::add(p, mx::array(64.0f))), {0, 0}, 1e-5));
}

TEST(KlDivergence, ImpossibleOutcomesOfTheReferenceCountNothing) {
  const float inf = INFINITY;
  const mx::array p({0.0f, 0.0f, -inf, -inf}), q({0.0f, 0.0f, 0.0f, -inf});
  const Doubles y = values(kl_divergence(mx::reshape(p, {1, 4}), mx::reshape(q, {1, 4})));
  EXPECT_NEAR(y[0], std::log(1.5), 1e-6);
  EXPECT_EQ(values(kl_divergence(mx::reshape(q, {1, 4}), mx::reshape(p, {1, 4})))[0], inf);
}

TEST(SampleRows, DrawsByInverseTransform) {
  Random random(35);
  for (const int width : {1, 5, 255, 256, 257, 3000}) {
    const mx::array logits = random_array(random, {60, width}, mx::float32, 2);
    std::vector<float> u(60);
    for (float& value : u) value = static_cast<float>(random.uniform());
    u[0] = 0;
    u[1] = std::nextafter(1.0f, 0.0f);
    const Doubles drawn = values(sample_rows(logits, mx::array(u.begin(), {60})));
    const Doubles logp = reference::log_softmax(values(logits), width);
    for (int r = 0; r < 60; ++r) {
      double before = 0;
      const auto index = static_cast<std::size_t>(drawn[r]);
      ASSERT_LT(index, static_cast<std::size_t>(width));
      for (std::size_t i = 0; i < index; ++i) before += std::exp(logp[r * width + i]);
      EXPECT_LE(before, u[r] + 1e-6) << "row " << r;
      EXPECT_GE(before + std::exp(logp[r * width + index]), u[r] - 1e-6) << "row " << r;
    }
  }
}

TEST(SampleRows, NeverDrawsTheImpossible) {
  std::vector<float> data(600, -INFINITY);
  data[300] = 1;
  data[301] = 1;
  const mx::array logits(data.begin(), {1, 600});
  for (const float u : {0.0f, 0.3f, 0.75f, std::nextafter(1.0f, 0.0f)}) {
    EXPECT_EQ(values(sample_rows(logits, mx::array({u})))[0], u < 0.5f ? 300 : 301);
  }
}

/// KL with all tokens but `kept` taken as one.
double lumped_divergence(const Doubles& log_p, const Doubles& log_q, const std::set<std::size_t>& kept) {
  double sum = 0, p_tail = 0, q_tail = 0;
  for (std::size_t i = 0; i < log_p.size(); ++i) {
    if (kept.contains(i)) {
      sum += std::exp(log_p[i]) * (log_p[i] - log_q[i]);
    } else {
      p_tail += std::exp(log_p[i]);
      q_tail += std::exp(log_q[i]);
    }
  }
  return sum + p_tail * std::log(p_tail / q_tail);
}

Doubles row_of(const Doubles& rows, std::size_t row, std::size_t width) {
  return {rows.begin() + static_cast<std::ptrdiff_t>(row * width),
          rows.begin() + static_cast<std::ptrdiff_t>((row + 1) * width)};
}

TEST(TopProbabilities, AreTheLargestAndTheirRest) {
  Random random(36);
  for (const int width : {2, 17, 5000}) {
    const int count = std::max(1, width / 3);
    const mx::array logits = random_array(random, {5, width}, mx::float32, 2);
    const TopProbabilities top = top_probabilities(logits, count);
    const Doubles all = reference::log_softmax(values(logits), width);
    const Doubles tokens = values(top.tokens), kept = values(top.log_probabilities),
                  tail = values(top.log_tail);
    for (std::size_t row = 0; row < 5; ++row) {
      Doubles sorted = row_of(all, row, static_cast<std::size_t>(width));
      std::sort(sorted.rbegin(), sorted.rend());
      std::set<double> seen;
      double sum = 0;
      for (std::size_t i = row * count; i < (row + 1) * static_cast<std::size_t>(count); ++i) {
        EXPECT_NEAR(kept[i], all[row * width + static_cast<std::size_t>(tokens[i])], 1e-5);
        EXPECT_GE(kept[i], sorted[static_cast<std::size_t>(count) - 1] - 1e-5);
        EXPECT_TRUE(seen.insert(tokens[i]).second);
        sum += std::exp(all[row * width + static_cast<std::size_t>(tokens[i])]);
      }
      EXPECT_NEAR(tail[row], std::log(1 - sum), 1e-4);
    }
  }
}

TEST(TopDivergence, IsTheDivergenceWithAllOthersAsOne) {
  Random random(37);
  const int width = 3000;
  const mx::array p = random_array(random, {4, width}, mx::float32, 2),
                  q = random_array(random, {4, width}, mx::float32, 2);
  const TopProbabilities top = top_probabilities(p, 50);
  const Doubles log_p = reference::log_softmax(values(p), width),
                log_q = reference::log_softmax(values(q), width);
  const Doubles tokens = values(top.tokens), actual = values(top_divergence(top, q));
  const Doubles whole = reference::kl_divergence(values(p), values(q), width);
  for (std::size_t row = 0; row < 4; ++row) {
    std::set<std::size_t> kept;
    for (std::size_t i = row * 50; i < row * 50 + 50; ++i) kept.insert(static_cast<std::size_t>(tokens[i]));
    const double expected = lumped_divergence(row_of(log_p, row, width), row_of(log_q, row, width), kept);
    EXPECT_NEAR(actual[row], expected, 1e-4 * expected);
    EXPECT_LE(actual[row], whole[row] * (1 + 1e-5));
  }
  for (const double value : values(top_divergence(top, p))) EXPECT_NEAR(value, 0, 1e-5);
}

TEST(TopDivergence, GradientMatchesCentralDifferences) {
  Random random(38);
  const mx::array p = random_array(random, {3, 23}), q = random_array(random, {3, 23});
  const TopProbabilities top = top_probabilities(p, 6);
  const Doubles log_p = reference::log_softmax(values(p), 23), tokens = values(top.tokens);
  const auto reference = [&](const std::vector<Doubles>& in) {
    const Doubles log_q = reference::log_softmax(in[0], 23);
    Doubles y;
    for (std::size_t row = 0; row < 3; ++row) {
      std::set<std::size_t> kept;
      for (std::size_t i = row * 6; i < row * 6 + 6; ++i) kept.insert(static_cast<std::size_t>(tokens[i]));
      y.push_back(lumped_divergence(row_of(log_p, row, 23), row_of(log_q, row, 23), kept));
    }
    return y;
  };
  expect_vjp([&](const auto& in) { return top_divergence(top, in[0]); }, reference, {q},
             random_array(random, {3}), 5e-6);
}

TEST(TopDivergence, TokensOutsideTheVocabularyGiveNaN) {
  TopProbabilities top = top_probabilities(mx::zeros({1, 4}), 1);
  top.tokens = mx::array({4}, {1, 1});
  EXPECT_TRUE(std::isnan(values(top_divergence(top, mx::zeros({1, 4})))[0]));
}

}  // namespace
}  // namespace optiq::kernels
