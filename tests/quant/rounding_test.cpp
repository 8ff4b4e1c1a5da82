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

/// Steps of one matrix in double, with a formula of their own.
class Formula {
 public:
  static constexpr std::size_t kGroup = 32, kCount = 4 * 64;

  Formula(const TestMatrix& matrix, const QuantizedMatrix& start) : matrix_(matrix), first_(restored(start)) {
    std::memcpy(scales_.data(), start.scales.data(), start.scales.size());
    std::memcpy(biases_.data(), start.biases.data(), start.biases.size());
  }

  void step(const Floats& gradient) {
    for (std::size_t g = 0; g < kCount / kGroup; ++g) {
      double by_low = 0, by_high = 0;
      for (std::size_t i = g * kGroup; i < (g + 1) * kGroup; ++i) {
        by_low += gradient[i] * (1 - level(i) / 3);
        by_high += gradient[i] * level(i) / 3;
      }
      for (std::size_t i = g * kGroup; i < (g + 1) * kGroup; ++i)
        offset_[i] = std::clamp(offset_[i] - 0.07 * std::copysign(1.0, gradient[i] * scales_[g]), -0.5, 0.5);
      low_[g] -= 0.02 * std::copysign(1.0, by_low * scales_[g]);
      high_[g] -= 0.02 * std::copysign(1.0, by_high * scales_[g]);
      margin_ = std::min({margin_, std::abs(by_low), std::abs(by_high)});
    }
  }

  [[nodiscard]] double level_at_start(std::size_t i) const {
    return std::round((first_[i] - biases_[i / kGroup]) / scales_[i / kGroup]);
  }
  [[nodiscard]] double level(std::size_t i) {
    const double plain = (matrix_.values[i] - biases_[i / kGroup]) / scales_[i / kGroup];
    const double chosen = level_at_start(i);
    const double exact = chosen + std::clamp(plain - chosen, -0.4, 0.4) + offset_[i];
    margin_ = std::min(margin_, std::abs(exact - std::floor(exact) - 0.5));
    return std::clamp(std::nearbyint(exact), 0.0, 3.0);
  }

  [[nodiscard]] double width(std::size_t i) const { return 3.0 * scales_[i / kGroup]; }
  [[nodiscard]] double value(std::size_t i) {
    const std::size_t g = i / kGroup;
    return biases_[g] + width(i) * low_[g] + level(i) / 3 * width(i) * (1 + high_[g] - low_[g]);
  }
  /// How far the nearest of all decisions, a level or a sign, was from the other outcome.
  [[nodiscard]] double margin() const { return margin_; }

 private:
  const TestMatrix& matrix_;
  Floats first_, scales_ = Floats(kCount / kGroup), biases_ = scales_;
  Doubles offset_ = Doubles(kCount), low_ = Doubles(kCount / kGroup), high_ = low_;
  double margin_ = INFINITY;
};

/// Levels and pairs are the formula's, in matrices where f32 decides as double does: its sums of 32 terms and
/// its levels are off by some 1e-6.
TEST(LearnedRounding, StepsAsTheFormulaSays) {
  Random random(test::seed());
  std::size_t moved = 0, compared = 0;
  while (compared < 5) {
    const TestMatrix matrix = random_matrix(random, 4, 64, DType::f32);
    const QuantizedMatrix start = encoded_by(Encoder::rtn, matrix, {2, 32});
    auto rounding = LearnedRounding::make(matrix.view(), start, "m").value();
    Formula formula(matrix, start);
    for (int step = 0; step < 12; ++step) {
      const Floats gradient = random_floats(random, Formula::kCount);
      formula.step(gradient);
      rounding.step(gradient, {.offset = 0.07f, .range = 0.02f});
    }
    const Floats values = values_of(rounding, Formula::kCount);
    Doubles expected;
    for (std::size_t i = 0; i < Formula::kCount; ++i) expected.push_back(formula.value(i));
    if (formula.margin() < 1e-5) continue;
    ++compared;
    for (std::size_t i = 0; i < Formula::kCount; ++i) {
      EXPECT_NEAR(values[i], expected[i], 1e-5 * std::abs(formula.width(i))) << i;
      moved += formula.level(i) != formula.level_at_start(i);
    }
  }
  EXPECT_GT(moved, compared * Formula::kCount / 20);  // the steps did something
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
