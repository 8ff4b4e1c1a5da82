// What makes mlx-cpu unfit to measure quality with, pinned: where one of these fails after an upgrade of MLX,
// the hazard may be gone, and what works around it (composed.cpp, our primitives) can be looked at again.
#include <gtest/gtest.h>

#include "optiq/kernels/ops.h"
#include "support/arrays.h"

namespace optiq::kernels {
namespace {

using namespace optiq::test;

double relative_error(const mx::array& actual, const mx::array& exact) {
  Doubles difference = values(actual);
  const Doubles expected = values(exact);
  for (std::size_t i = 0; i < difference.size(); ++i) difference[i] -= expected[i];
  return norm(difference) / norm(expected);
}

QuantizedWeight quantized(Random& random, mx::Dtype dtype) {
  const auto parts = mx::quantize(random_array(random, {48, 2048}, dtype), 64, 4);
  return {parts[0], parts[1], parts[2], 4, 64};
}

TEST(MlxHazards, QuantizedMatmulAccumulatesInBf16) {
  Random random(61);
  const QuantizedWeight w = quantized(random, mx::bfloat16);
  const mx::array x = random_array(random, {4, 2048}, mx::bfloat16);
  const mx::array y = mx::quantized_matmul(x, w.weight, w.scales, w.biases, true, 64, 4);
  const mx::array exact = quantized_linear(mx::astype(x, mx::float32), w);
  EXPECT_GT(relative_error(y, exact), 4 * kBf16Epsilon);
}

TEST(MlxHazards, DenseMatmulAccumulatesInBf16) {
  Random random(62);
  const mx::array x = random_array(random, {4, 4096}, mx::bfloat16),
                  w = random_array(random, {48, 4096}, mx::bfloat16);
  const mx::array exact = linear(mx::astype(x, mx::float32), w);
  RecordProperty("relative_error", std::to_string(relative_error(mx::matmul(x, mx::transpose(w)), exact)));
  EXPECT_GT(relative_error(mx::matmul(x, mx::transpose(w)), exact), kBf16Epsilon / 4);
}

/// A whole-array f32 sum runs in one accumulator a lane: past 2^24 ones it stops growing.
TEST(MlxHazards, WholeArraySumSaturates) {
  const mx::array rows = mx::full({1 << 9, 1 << 17}, 0.7f);
  const double exact = static_cast<double>(0.7f) * (1 << 26);
  EXPECT_GT(std::abs(values(mx::sum(rows))[0] - exact) / exact, 0.05);
  EXPECT_LT(std::abs(values(mx::sum(mx::sum(rows, 1)))[0] - exact) / exact, 0.01);
}

TEST(MlxHazards, DequantizeRoundsInTheScalesDtype) {
  Random random(63);
  const QuantizedWeight w = quantized(random, mx::bfloat16);
  const auto f32 = [](const mx::array& a) { return mx::astype(a, mx::float32); };
  const mx::array asked =
      mx::dequantize(w.weight, w.scales, w.biases, 64, 4, "affine", std::nullopt, mx::float32);
  const mx::array exact = mx::dequantize(w.weight, f32(w.scales), f32(w.biases), 64, 4);
  EXPECT_GT(relative_error(asked, exact), kBf16Epsilon / 4);
}

}  // namespace
}  // namespace optiq::kernels
