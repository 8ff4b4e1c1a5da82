#include "kernels/reference.h"
#include "optiq/kernels/ops.h"

namespace optiq::kernels {
namespace {

using namespace optiq::test;

TEST(RmsNorm, MatchesTheDoubleReference) {
  Random random(11);
  for (const int width : {1, 3, 64, 77, 2049}) {
    for (const mx::Dtype dtype : {mx::float32, mx::float16, mx::bfloat16}) {
      const mx::array x = random_array(random, {3, 5, width}), weight = random_array(random, {width}, dtype);
      const Doubles expected = reference::rms_norm(values(x), values(weight), 1e-5);
      EXPECT_TRUE(close(rms_norm(x, weight, 1e-5f), expected, largest(expected) * 8 * kF32Epsilon)) << width;
    }
  }
}

TEST(RmsNorm, GradientsMatchCentralDifferences) {
  Random random(12);
  const mx::array x = random_array(random, {2, 3, 21}), weight = random_array(random, {21});
  expect_vjp([](const auto& in) { return rms_norm(in[0], in[1], 1e-3f); },
             [](const auto& in) { return reference::rms_norm(in[0], in[1], 1e-3); }, {x, weight},
             random_array(random, {2, 3, 21}), 2e-6);
}

TEST(RmsNorm, TinyRowsAreScaledByEpsilonNotByTheirNoise) {
  const mx::array x = mx::full({1, 8}, 1e-20f), weight = mx::ones({8});
  EXPECT_TRUE(close(rms_norm(x, weight, 1e-6f), Doubles(8, 1e-17), 1e-23));
}

TEST(Swiglu, MatchesTheDoubleReference) {
  Random random(13);
  const mx::array gate = random_array(random, {3, 5, 77}, mx::float32, 6),
                  up = random_array(random, {3, 5, 77});
  const Doubles expected = reference::swiglu(values(gate), values(up));
  EXPECT_TRUE(close(swiglu(gate, up), expected, largest(expected) * 6 * kF32Epsilon));
}

TEST(Swiglu, ExtremeGatesGiveLimitsNotNaNs) {
  const mx::array gate({-1e30f, -200.0f, 0.0f, 200.0f, 1e30f}), up({1.0f, 1.0f, 1.0f, 1.0f, 1.0f});
  EXPECT_TRUE(close(swiglu(gate, up), {0, 0, 0, 200, 1e30}, 1e23));
  const auto gradients =
      array_vjp([](const auto& in) { return swiglu(in[0], in[1]); }, {gate, up}, mx::ones({5}));
  EXPECT_TRUE(close(mx::slice(gradients[0], {1}, {4}), {0, 0.5, 1}, 1e-6));
}

TEST(Swiglu, GradientsMatchCentralDifferences) {
  Random random(14);
  const mx::array gate = random_array(random, {2, 19}), up = random_array(random, {2, 19});
  expect_vjp([](const auto& in) { return swiglu(in[0], in[1]); },
             [](const auto& in) { return reference::swiglu(in[0], in[1]); }, {gate, up},
             random_array(random, {2, 19}), 2e-6);
}

mx::array frequencies(int n) {
  std::vector<float> values;
  for (int i = 0; i < n; ++i)
    values.push_back(static_cast<float>(std::pow(10000.0, -static_cast<double>(i) / n)));
  return mx::array(values.begin(), {n});
}

TEST(Rope, MatchesTheDoubleReferenceAtAnyPosition) {
  Random random(15);
  for (const int offset : {0, 7, 130000}) {
    for (const int n : {1, 7, 16}) {
      const mx::array x = random_array(random, {2, 3, 5, 32}), f = frequencies(n);
      const Doubles expected = reference::rope(values(x), values(f), 5, 32, offset, 1.25);
      EXPECT_TRUE(close(rope(x, f, offset, 1.25f), expected, 5 * 4 * kF32Epsilon)) << offset << " " << n;
    }
  }
}

TEST(Rope, GradientMatchesCentralDifferences) {
  Random random(16);
  const mx::array x = random_array(random, {1, 2, 3, 10}), f = frequencies(4);
  expect_vjp([&](const auto& in) { return rope(in[0], f, 5, 1.5f); },
             [&](const auto& in) { return reference::rope(in[0], values(f), 3, 10, 5, 1.5); }, {x},
             random_array(random, {1, 2, 3, 10}), 1e-6);
}

TEST(Rope, TakesTransposedViews) {
  Random random(17);
  const mx::array x = mx::transpose(random_array(random, {2, 5, 3, 16}), {0, 2, 1, 3}), f = frequencies(8);
  EXPECT_TRUE(close(rope(x, f, 2), reference::rope(values(x), values(f), 5, 16, 2, 1), 5 * 4 * kF32Epsilon));
}

TEST(Embedding, CopiesRowsExactly) {
  Random random(18);
  for (const mx::Dtype dtype : {mx::float32, mx::float16, mx::bfloat16}) {
    const mx::array table = random_array(random, {50, 37}, dtype),
                    tokens = random_indices(random, {3, 40}, 50);
    const Doubles rows = values(table), ids = values(tokens), y = values(embedding(tokens, table));
    ASSERT_EQ(y.size(), 3u * 40 * 37);
    for (std::size_t i = 0; i < y.size(); ++i)
      ASSERT_EQ(y[i], rows[static_cast<std::size_t>(ids[i / 37]) * 37 + i % 37]);
  }
}

TEST(Embedding, GradientAddsUpRepeatedTokens) {
  Random random(19);
  const mx::array table = random_array(random, {9, 200}, mx::bfloat16),
                  tokens = random_indices(random, {30}, 5);
  const mx::array dy = random_array(random, {30, 200});
  const auto got = array_vjp([&](const auto& in) { return embedding(tokens, in[0]); }, {table}, dy);
  Doubles expected(9 * 200, 0.0);
  const Doubles ids = values(tokens), d = values(dy);
  for (std::size_t i = 0; i < d.size(); ++i)
    expected[static_cast<std::size_t>(ids[i / 200]) * 200 + i % 200] += d[i];
  EXPECT_TRUE(close(got[0], expected, largest(expected) * 30 * kF32Epsilon));
  EXPECT_EQ(got[0].dtype(), mx::float32);
}

TEST(Embedding, TokensOutsideTheTableGiveNaNRows) {
  const mx::array table = mx::ones({4, 3}), tokens({4, -1, 3});
  const Doubles y = values(embedding(tokens, table));
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(std::isnan(y[i]));
  for (int i = 6; i < 9; ++i) EXPECT_EQ(y[i], 1);
}

}  // namespace
}  // namespace optiq::kernels
