// Multiplier: every mode, few and many rows, several matrices at once, against scalar double arithmetic.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <optional>

#include "kernels/random_matrix.h"
#include "optiq/quant/format.h"
#include "src/kernels/cpu/int8_products.h"
#include "support/seed.h"

namespace optiq::kernels::cpu {
namespace {

using Floats = std::vector<float>;

constexpr double kF32 = 0x1p-24, kBf16 = 0x1p-9;

Floats random_floats(Random& random, std::size_t count) {
  Floats values(count);
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

/// A dense or quantized matrix with its values in double.
struct Weights {
  Matrix matrix;
  std::vector<double> values;
  Floats bias;
  std::vector<std::uint16_t> elements;
  std::optional<RandomMatrix> quantized;

  Weights(Random& random, std::size_t out, std::size_t in, int bits, int group)
      : bias(random_floats(random, out)) {
    if (bits < 16) {
      quantized.emplace(random, out, in, bits, group, Storage::bf16);
      matrix = quantized->matrix();
      for (std::size_t i = 0; i < out * in; ++i) values.push_back(quantized->weight(i / in, i % in));
      return;
    }
    for (std::size_t i = 0; i < out * in; ++i) {
      elements.push_back(f32_to_bf16(static_cast<float>(random.normal())));
      values.push_back(static_cast<double>(bf16_to_f32(elements.back())));
    }
    matrix = {.data = elements.data(), .storage = Storage::bf16, .out = out, .in = in};
  }
};

/// How far |x| may be moved by the mode's rounding, for each column.
std::vector<double> rounding(const Floats& x, std::size_t row, std::size_t in, const Matrix& w,
                             Compute compute, std::size_t rows) {
  std::vector<double> moved(in, 0.0);
  const bool int8 = compute == Compute::int8 && w.is_quantized();
  const bool bf16 =
      !w.is_quantized() && (compute == Compute::bf16 || (compute == Compute::int8 && rows > kDotRows));
  const std::size_t group = w.is_quantized() ? static_cast<std::size_t>(w.group_size) : in;
  for (std::size_t i = 0; i < in; ++i) {
    double top = 0;
    for (std::size_t j = i / group * group; j < i / group * group + group; ++j)
      top = std::max(top, std::abs(static_cast<double>(x[row * in + j])));
    if (int8) moved[i] = top / 254 * (1 + 1e-5);
    if (bf16) moved[i] = kBf16 * std::abs(static_cast<double>(x[row * in + i]));
  }
  return moved;
}

void expect_product(const Floats& y, const Floats& before, const Weights& w, const Floats& x,
                    std::size_t rows, const Use& use, std::size_t offset, Compute compute) {
  const std::size_t in = w.matrix.in;
  for (std::size_t r = 0; r < rows; ++r) {
    const std::vector<double> moved = rounding(x, r, in, w.matrix, compute, rows);
    for (std::size_t o = 0; o < w.matrix.out; ++o) {
      const std::size_t at = offset + r * use.stride + o;
      double expected = use.bias != nullptr ? static_cast<double>(w.bias[o]) : 0;
      if (use.accumulate) expected += static_cast<double>(before[at]);
      double size = std::abs(expected), slack = 0;
      for (std::size_t i = 0; i < in; ++i) {
        const double weight = w.values[o * in + i], value = static_cast<double>(x[r * in + i]);
        expected += weight * value;
        size += std::abs(weight * value);
        slack += std::abs(weight) * moved[i];
      }
      // Dequantizing in f32 rounds a weight by its parts' size, at most 2^bits times the scale: 16 of its
      // roundings.
      ASSERT_NEAR(y[at], expected, slack + (16 + std::sqrt(in)) * 4 * kF32 * size) << r << " " << o;
    }
  }
}

TEST(Multiplier, EveryModeRowCountAndMixtureMatchesTheReference) {
  Random random(test::seed());
  for (const Compute compute : {Compute::f32, Compute::bf16, Compute::int8}) {
    Multiplier multiplier(compute);
    for (const std::size_t rows : {1, 2, 4, 5, 8, 9, 13, 40}) {
      const std::size_t in = 128 * (1 + random.below(5));
      std::vector<Weights> weights;
      for (const int bits : {4, 16, 2, 3, 8, 16, 5, 6})
        weights.emplace_back(random, 1 + random.below(150), in, bits, 32 << random.below(3));
      const Floats x = random_floats(random, rows * in);
      std::size_t stride = 0;
      for (const Weights& w : weights) stride += w.matrix.out + 1;
      Floats y(rows * stride, std::numeric_limits<float>::quiet_NaN());
      std::vector<Use> uses;
      std::vector<std::size_t> offsets;
      std::size_t offset = 0;
      for (std::size_t i = 0; i < weights.size(); ++i) {
        const Weights& w = weights[i];
        const bool accumulate = random.below(2) == 1;
        if (accumulate) {
          for (std::size_t r = 0; r < rows; ++r)
            for (std::size_t o = 0; o < w.matrix.out; ++o)
              y[offset + r * stride + o] = static_cast<float>(random.normal());
        }
        uses.push_back(
            {&w.matrix, random.below(2) == 1 ? w.bias.data() : nullptr, &y[offset], stride, accumulate});
        offsets.push_back(offset);
        offset += w.matrix.out + 1;
      }
      const Floats before = y;
      multiplier.run(x.data(), rows, in, uses);
      for (std::size_t i = 0; i < weights.size(); ++i) {
        SCOPED_TRACE(fmt::format("mode {} rows {} use {} bits {}", static_cast<int>(compute), rows, i,
                                 weights[i].matrix.bits));
        expect_product(y, before, weights[i], x, rows, uses[i], offsets[i], compute);
        for (std::size_t r = 0; r < rows; ++r)
          ASSERT_TRUE(std::isnan(y[offsets[i] + r * stride + weights[i].matrix.out])) << "written past a row";
      }
    }
  }
}

TEST(Int8Products, BothWaysMatchTheReferenceAndTheTableChooses) {
  Random random(test::seed());
  const std::size_t in = 384;
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    const std::size_t first_panels = kernels().panels_from(bits);
    ASSERT_GE(first_panels, 2u);
    EXPECT_EQ(int8_way(first_panels - 1, bits), Int8Way::dots);
    EXPECT_EQ(int8_way(first_panels, bits), Int8Way::panels);
    const Weights w(random, 101, in, bits, 64);
    for (const std::size_t rows : {1, 6, 33}) {
      const Floats x = random_floats(random, rows * in);
      RoundedRows rounded;
      for (const Int8Way way : {Int8Way::dots, Int8Way::panels}) {
        SCOPED_TRACE(fmt::format("bits {} rows {} way {}", bits, rows, static_cast<int>(way)));
        Floats y(rows * 101, std::numeric_limits<float>::quiet_NaN());
        const Floats before = y;
        const Use use{&w.matrix, w.bias.data(), y.data(), 101, false};
        rounded.begin(x.data(), rows, in);
        multiply_int8(rounded, rows, {&use, 1}, way);
        expect_product(y, before, w, x, rows, use, 0, Compute::int8);
      }
    }
  }
}

TEST(Multiplier, ReadsRowsInF32) {
  Random random(test::seed());
  for (const int bits : {2, 3, 4, 5, 6, 8, 16}) {
    const Weights w(random, 5, 128, bits, 64);
    Floats row(128, std::numeric_limits<float>::quiet_NaN());
    read_row(w.matrix, 3, row.data());
    for (std::size_t i = 0; i < 128; ++i) EXPECT_NEAR(row[i], w.values[3 * 128 + i], 64 * kF32) << bits;
  }
}

}  // namespace
}  // namespace optiq::kernels::cpu
