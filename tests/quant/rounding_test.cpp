#include "optiq/quant/rounding.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "matrices.h"
#include "optiq/base/threads.h"
#include "optiq/quant/packing.h"
#include "support/contains.h"
#include "support/seed.h"

namespace optiq::quant {
namespace {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

TestMatrix random_matrix(Random& random, std::int64_t rows, std::int64_t columns, DType dtype = DType::bf16) {
  return TestMatrix(rows, columns, dtype, [&](auto, auto) { return 0.02 * random.normal(); });
}

QuantizedMatrix encoded_by(Encoder encoder, const TestMatrix& matrix, Format format) {
  return encode(encoder, matrix.view(), format, matrix.dtype, {}, "m").value();
}

Floats restored(const QuantizedMatrix& matrix) {
  Floats values(static_cast<std::size_t>(matrix.out_features * matrix.in_features), -1e30f);
  const auto in = static_cast<std::size_t>(matrix.in_features);
  for (std::int64_t row = 0; row < matrix.out_features; ++row)
    dequantize_row(matrix, row, std::span(values).subspan(static_cast<std::size_t>(row) * in, in));
  return values;
}

Floats values_of(const LearnedRounding& rounding, std::size_t count) {
  Floats values(count, NAN);
  rounding.dequantize(values);
  return values;
}

Floats random_floats(Random& random, std::size_t count) {
  Floats values(count);
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

TEST(LearnedRounding, BeginsAsTheStartToTheBit) {
  Random random(test::seed());
  for (const auto& [name, draw] : distributions(1e30)) {
    for (const Encoder encoder : {Encoder::rtn, Encoder::range}) {
      const TestMatrix matrix(5, 128, DType::bf16, [&](auto, auto column) { return draw(random, column); });
      const QuantizedMatrix start = encoded_by(encoder, matrix, {3, 64});
      const auto rounding = LearnedRounding::make(matrix.view(), start, "m").value();
      EXPECT_EQ(values_of(rounding, matrix.values.size()), restored(start)) << name;
      const QuantizedMatrix again = rounding.encoded();
      EXPECT_EQ(again.weight, start.weight) << name;
      EXPECT_EQ(again.scales, start.scales) << name;
      EXPECT_EQ(again.biases, start.biases) << name;
    }
  }
}

/// What dequantize gives is what the file would give, wherever the steps have led; levels stay in range.
TEST(LearnedRounding, GivesWhatItStores) {
  Random random(test::seed());
  for (const int bits : kBitChoices) {
    for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
      const TestMatrix matrix = random_matrix(random, 7, 192, dtype);
      auto rounding =
          LearnedRounding::make(matrix.view(), encoded_by(Encoder::rtn, matrix, {bits, 32}), "m").value();
      for (int i = 0; i < 30; ++i)
        rounding.step(random_floats(random, matrix.values.size()), {.offset = 0.2f, .range = 0.1f});
      const QuantizedMatrix stored = rounding.encoded();
      EXPECT_EQ(values_of(rounding, matrix.values.size()), restored(stored));
      EXPECT_EQ(stored.format, (Format{bits, 32}));
      EXPECT_EQ(stored.dtype, dtype);
    }
  }
}

/// One matrix, steps in double with a formula of its own: levels and pairs must be the same.
TEST(LearnedRounding, StepsAsTheFormulaSays) {
  Random random(test::seed());
  constexpr std::size_t group = 32, count = 4 * 64;
  const TestMatrix matrix = random_matrix(random, 4, 64, DType::f32);
  const QuantizedMatrix start = encoded_by(Encoder::rtn, matrix, {2, 32});
  auto rounding = LearnedRounding::make(matrix.view(), start, "m").value();
  Doubles offset(count, 0.0), low(count / group, 0.0), high(count / group, 0.0);
  Floats scales(count / group), biases(count / group);
  std::memcpy(scales.data(), start.scales.data(), start.scales.size());
  std::memcpy(biases.data(), start.biases.data(), start.biases.size());
  const Floats first = restored(start);
  const auto level_at_start = [&](std::size_t i) {
    return std::round((first[i] - biases[i / group]) / scales[i / group]);
  };
  const auto level = [&](std::size_t i) {
    const double plain = (matrix.values[i] - biases[i / group]) / scales[i / group];
    const double chosen = level_at_start(i);
    return std::clamp(std::nearbyint(chosen + std::clamp(plain - chosen, -0.4, 0.4) + offset[i]), 0.0, 3.0);
  };
  for (int step = 0; step < 12; ++step) {
    const Floats gradient = random_floats(random, count);
    for (std::size_t g = 0; g < count / group; ++g) {
      double by_low = 0, by_high = 0;
      for (std::size_t i = g * group; i < (g + 1) * group; ++i) {
        by_low += gradient[i] * (1 - level(i) / 3);
        by_high += gradient[i] * level(i) / 3;
      }
      for (std::size_t i = g * group; i < (g + 1) * group; ++i)
        offset[i] = std::clamp(offset[i] - 0.07 * std::copysign(1.0, gradient[i] * scales[g]), -0.5, 0.5);
      low[g] -= 0.02 * std::copysign(1.0, by_low * scales[g]);
      high[g] -= 0.02 * std::copysign(1.0, by_high * scales[g]);
    }
    rounding.step(gradient, {.offset = 0.07f, .range = 0.02f});
  }
  const Floats values = values_of(rounding, count);
  std::size_t moved = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t g = i / group;
    const double width = 3.0 * scales[g];
    const double expected = biases[g] + width * low[g] + level(i) / 3 * width * (1 + high[g] - low[g]);
    EXPECT_NEAR(values[i], expected, 1e-5 * std::abs(width)) << i;
    moved += level(i) != level_at_start(i);
  }
  EXPECT_GT(moved, count / 20);  // the steps did something
}

TEST(LearnedRounding, NothingMovesWithoutAGradient) {
  Random random(test::seed());
  const TestMatrix matrix = random_matrix(random, 3, 64);
  const QuantizedMatrix start = encoded_by(Encoder::range, matrix, {3, 32});
  auto rounding = LearnedRounding::make(matrix.view(), start, "m").value();
  for (const float value : {0.0f, std::numeric_limits<float>::quiet_NaN()})
    rounding.step(Floats(matrix.values.size(), value), {.offset = 0.4f, .range = 0.4f});
  EXPECT_EQ(values_of(rounding, matrix.values.size()), restored(start));
}

/// A weight's value moves against its gradient, also where a scale is negative.
TEST(LearnedRounding, MovesAgainstTheGradient) {
  Random random(test::seed());
  const TestMatrix matrix(8, 64, DType::bf16, [&](auto, auto) { return -0.3 + 0.2 * random.normal(); });
  const QuantizedMatrix start = encoded_by(Encoder::rtn, matrix, {3, 32});
  const Floats before = restored(start);
  for (const float sign : {1.0f, -1.0f}) {
    auto rounding = LearnedRounding::make(matrix.view(), start, "m").value();
    rounding.step(Floats(matrix.values.size(), sign), {.offset = 0.3f, .range = 0.0f});
    const Floats after = values_of(rounding, before.size());
    std::size_t moved = 0;
    for (std::size_t i = 0; i < before.size(); ++i) {
      EXPECT_LE(sign * after[i], sign * before[i]);
      moved += after[i] != before[i];
    }
    EXPECT_GT(moved, before.size() / 10);
  }
}

TEST(LearnedRounding, DoesNotDependOnThreads) {
  Random random(test::seed());
  const TestMatrix matrix = random_matrix(random, 130, 256);
  const QuantizedMatrix start = encoded_by(Encoder::rtn, matrix, {2, 64});
  const Floats gradient = random_floats(random, matrix.values.size());
  const auto run = [&] {
    auto rounding = LearnedRounding::make(matrix.view(), start, "m").value();
    rounding.step(gradient, {.offset = 0.3f, .range = 0.05f});
    return rounding.encoded();
  };
  const QuantizedMatrix threaded = run();
  QuantizedMatrix alone;
  parallel_for(2, 1, [&](std::size_t begin, std::size_t) {
    if (begin == 0) alone = run();
  });
  EXPECT_EQ(threaded.weight, alone.weight);
  EXPECT_EQ(threaded.scales, alone.scales);
  EXPECT_EQ(threaded.biases, alone.biases);
}

TEST(LearnedRounding, RefusesWhatDoesNotFit) {
  Random random(test::seed());
  const TestMatrix matrix = random_matrix(random, 4, 64), other = random_matrix(random, 5, 64);
  const QuantizedMatrix start = encoded_by(Encoder::rtn, matrix, {3, 32});
  const auto refused = LearnedRounding::make(other.view(), start, "the tensor");
  ASSERT_FALSE(refused);
  EXPECT_TRUE(test::contains(refused.error().message, "the tensor: expected weights [4, 64]"))
      << refused.error().message;
  const TestMatrix infinite(4, 64, DType::f32, [](auto row, auto) { return row == 2 ? INFINITY : 0.1; });
  const auto not_finite = LearnedRounding::make(infinite.view(), start, "the tensor");
  ASSERT_FALSE(not_finite);
  EXPECT_TRUE(test::contains(not_finite.error().message, "the tensor: expected finite weights"));
}

}  // namespace
}  // namespace optiq::quant
