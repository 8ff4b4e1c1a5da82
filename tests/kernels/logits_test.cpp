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

}  // namespace
}  // namespace optiq::kernels
