// rtn against mlx::core::quantize, byte for byte, and dequantize_row against mlx::core::dequantize.
#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include "matrices.h"
#include "support/seed.h"

namespace optiq::quant {
namespace {

namespace mx = mlx::core;

mx::Dtype mlx_dtype(DType dtype) {
  if (dtype == DType::f32) return mx::float32;
  return dtype == DType::f16 ? mx::float16 : mx::bfloat16;
}

mx::array to_mlx(const TestMatrix& matrix) {
  const mx::array values(matrix.values.data(),
                         {static_cast<int>(matrix.rows), static_cast<int>(matrix.columns)}, mx::float32);
  return mx::astype(values, mlx_dtype(matrix.dtype), mx::Device::cpu);
}

std::vector<std::byte> bytes_of(mx::array array) {
  array = mx::contiguous(array, false, mx::Device::cpu);
  array.eval();
  const auto* begin = array.data<std::byte>();
  return {begin, begin + array.nbytes()};
}

std::vector<std::byte> bytes_of(const std::vector<std::uint32_t>& words) {
  const auto span = std::as_bytes(std::span(words));
  return {span.begin(), span.end()};
}

double largest_of(DType dtype) {
  return dtype == DType::f16 ? 30000.0 : 1e38;
}

class MlxAgreement : public ::testing::TestWithParam<DType> {};

TEST_P(MlxAgreement, RtnGivesTheBytesOfMlxQuantize) {
  for (const auto& [name, draw] : distributions(largest_of(GetParam()))) {
    Random random(test::seed());
    const TestMatrix matrix(9, 384, GetParam(), [&](auto, auto column) { return draw(random, column); });
    for (const int bits : kBitChoices) {
      for (const int group : kGroupChoices) {
        SCOPED_TRACE(name + " " + to_string({bits, group}));
        const auto ours = encode(Encoder::rtn, matrix.view(), {bits, group}, GetParam(), {}, "w");
        ASSERT_TRUE(ours) << ours.error().message;
        const auto theirs =
            mx::quantize(to_mlx(matrix), group, bits, "affine", std::nullopt, mx::Device::cpu);
        EXPECT_EQ(bytes_of(ours->weight), bytes_of(theirs[0]));
        EXPECT_EQ(ours->scales, bytes_of(theirs[1]));
        EXPECT_EQ(ours->biases, bytes_of(theirs[2]));
      }
    }
  }
}

TEST_P(MlxAgreement, DequantizeRowGivesTheBytesOfMlxDequantizeInF32) {
  Random random(test::seed());
  const TestMatrix matrix(5, 256, GetParam(), [&](auto, auto) { return random.normal(); });
  for (const int bits : kBitChoices) {
    for (const int group : kGroupChoices) {
      const auto parts = mx::quantize(to_mlx(matrix), group, bits, "affine", std::nullopt, mx::Device::cpu);
      // The scales are cast first: MLX computes in their dtype.
      const mx::array theirs =
          mx::dequantize(parts[0], mx::astype(parts[1], mx::float32), mx::astype(parts[2], mx::float32),
                         group, bits, "affine", std::nullopt, std::nullopt, mx::Device::cpu);
      const auto ours = encode(Encoder::rtn, matrix.view(), {bits, group}, GetParam(), {}, "w");
      ASSERT_TRUE(ours);
      std::vector<float> rows(static_cast<std::size_t>(matrix.rows * matrix.columns), -1e30f);
      for (std::int64_t row = 0; row < matrix.rows; ++row) {
        dequantize_row(*ours, row,
                       std::span(rows).subspan(static_cast<std::size_t>(row * matrix.columns), 256));
      }
      const auto span = std::as_bytes(std::span(rows));
      EXPECT_EQ(std::vector<std::byte>(span.begin(), span.end()), bytes_of(theirs))
          << to_string({bits, group});
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Dtypes, MlxAgreement, ::testing::Values(DType::f32, DType::f16, DType::bf16),
                         [](const auto& dtype) { return std::string(dtype_name(dtype.param)); });

}  // namespace
}  // namespace optiq::quant
