#include "optiq/quant/encoder.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <limits>

#include "matrices.h"
#include "optiq/base/threads.h"
#include "support/seed.h"

namespace optiq::quant {
namespace {

constexpr DType kFloatTypes[] = {DType::f32, DType::f16, DType::bf16};

/// A stored scale or bias in double, from the bits' definition.
double stored_value(const std::vector<std::byte>& bytes, std::size_t index, DType dtype) {
  if (dtype == DType::f32) {
    float value = 0;
    std::memcpy(&value, bytes.data() + 4 * index, 4);
    return value;
  }
  std::uint16_t half = 0;
  std::memcpy(&half, bytes.data() + 2 * index, 2);
  const int fraction_bits = dtype == DType::bf16 ? 7 : 10;
  const int exponent_bits = 15 - fraction_bits;
  const int exponent = half >> fraction_bits & ((1 << exponent_bits) - 1);
  const double fraction = std::ldexp(half & ((1 << fraction_bits) - 1), -fraction_bits);
  const int offset = (1 << (exponent_bits - 1)) - 1;
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, 1 - offset) : std::ldexp(1 + fraction, exponent - offset);
  return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

double stored_scale(const QuantizedMatrix& matrix, std::int64_t row, std::int64_t column) {
  const std::int64_t groups = matrix.in_features / matrix.format.group_size;
  return stored_value(matrix.scales,
                      static_cast<std::size_t>(row * groups + column / matrix.format.group_size),
                      matrix.dtype);
}

double stored_bias(const QuantizedMatrix& matrix, std::int64_t row, std::int64_t column) {
  const std::int64_t groups = matrix.in_features / matrix.format.group_size;
  return stored_value(matrix.biases,
                      static_cast<std::size_t>(row * groups + column / matrix.format.group_size),
                      matrix.dtype);
}

/// q·s + b in double from the stored bits, read one by one.
double reference_weight(const QuantizedMatrix& matrix, std::int64_t row, std::int64_t column) {
  const int bits = matrix.format.bits;
  int q = 0;
  for (int bit = 0; bit < bits; ++bit) {
    const auto position = static_cast<std::size_t>((row * matrix.in_features + column) * bits + bit);
    q |= static_cast<int>(matrix.weight[position / 32] >> (position % 32) & 1) << bit;
  }
  return q * stored_scale(matrix, row, column) + stored_bias(matrix, row, column);
}

double weighted_error(const TestMatrix& matrix, const QuantizedMatrix& encoded,
                      std::span<const float> importance) {
  double total = 0;
  for (std::int64_t row = 0; row < matrix.rows; ++row) {
    for (std::int64_t column = 0; column < matrix.columns; ++column) {
      const double difference = matrix.values[static_cast<std::size_t>(row * matrix.columns + column)] -
                                reference_weight(encoded, row, column);
      total +=
          (importance.empty() ? 1.0 : importance[static_cast<std::size_t>(column)]) * difference * difference;
    }
  }
  return total;
}

QuantizedMatrix encoded(Encoder encoder, const TestMatrix& matrix, Format format, DType scales,
                        std::span<const float> importance = {}) {
  auto result = encode(encoder, matrix.view(), format, scales, {importance}, "w");
  EXPECT_TRUE(result) << result.error().message;
  return std::move(*result);
}

TestMatrix normal_matrix(Random& random, std::int64_t rows, std::int64_t columns, DType dtype) {
  return TestMatrix(rows, columns, dtype, [&](auto, auto) { return 0.02 * random.normal(); });
}

std::vector<float> lognormal_importance(Random& random, std::int64_t columns, double sigma = 1) {
  std::vector<float> importance(static_cast<std::size_t>(columns));
  for (float& value : importance) value = static_cast<float>(std::exp(sigma * random.normal()));
  return importance;
}

template <class Body>
void for_each_format(const Body& body) {
  for (const int bits : kBitChoices) {
    for (const int group : kGroupChoices) {
      SCOPED_TRACE(to_string({bits, group}));
      body(Format{bits, group});
    }
  }
}

TEST(LoadRow, ReadsEveryDtypeUnaligned) {
  Random random(test::seed());
  for (const DType dtype : kFloatTypes) {
    const TestMatrix matrix = normal_matrix(random, 3, 33, dtype);
    std::vector<std::byte> shifted(1, std::byte{0x5a});
    shifted.insert(shifted.end(), matrix.bytes.begin(), matrix.bytes.end());
    const MatrixView view{3, 33, dtype, std::span(shifted).subspan(1)};
    std::vector<float> row(33, -1e30f);
    load_row(view, 2, row);
    EXPECT_EQ(row, std::vector<float>(matrix.values.begin() + 66, matrix.values.end()));
  }
}

TEST(DequantizeRow, IsScaleTimesLevelPlusBias) {
  Random random(test::seed());
  for (const DType scales : kFloatTypes) {
    for_each_format([&](Format format) {
      const TestMatrix matrix = normal_matrix(random, 3, 256, DType::f32);
      const QuantizedMatrix result = encoded(Encoder::range, matrix, format, scales);
      std::vector<float> row(256, -1e30f);
      dequantize_row(result, 1, row);
      for (std::int64_t column = 0; column < 256; ++column) {
        const double expected = reference_weight(result, 1, column);
        // Two roundings, of the product and of the sum; neither exceeds |s|·q + |b|.
        const double size =
            std::fabs(stored_scale(result, 1, column)) * 255 + std::fabs(stored_bias(result, 1, column));
        EXPECT_NEAR(row[static_cast<std::size_t>(column)], expected, 2 * 0x1p-24 * size);
      }
    });
  }
}

/// MLX moves the scale so that the edge sits on a whole level: s/s' ≤ 1 + 1/top, so the far end of the range
/// lies at most one level beyond the last.
TEST(Rtn, IsOffByAtMostHalfAScaleWithinTheRange) {
  Random random(test::seed());
  for_each_format([&](Format format) {
    const TestMatrix matrix = normal_matrix(random, 5, 384, DType::f32);
    const QuantizedMatrix result = encoded(Encoder::rtn, matrix, format, DType::f32);
    const int top = (1 << format.bits) - 1;
    for (std::int64_t row = 0; row < 5; ++row) {
      for (std::int64_t column = 0; column < 384; ++column) {
        const double weight = matrix.values[static_cast<std::size_t>(row * 384 + column)];
        const double scale = stored_scale(result, row, column);
        const double level = (weight - stored_bias(result, row, column)) / scale;
        const double levels_off = (weight - reference_weight(result, row, column)) / scale;
        EXPECT_LE(std::fabs(levels_off), (level >= 0 && level <= top ? 0.5 : 1.0) + 1e-4);
      }
    }
  });
}

TEST(Range, IsNeverWorseThanRtnInAnyGroup) {
  Random random(test::seed());
  for (const auto& [name, draw] : distributions(30000.0)) {
    SCOPED_TRACE(name);
    for (const DType scales : kFloatTypes) {
      for_each_format([&](Format format) {
        // A matrix of one group, so that the measure is that group's.
        const TestMatrix matrix(1, format.group_size, DType::bf16,
                                [&](auto, auto column) { return draw(random, column); });
        const std::vector<float> importance = lognormal_importance(random, matrix.columns, 2);
        const double range =
            weighted_error(matrix, encoded(Encoder::range, matrix, format, scales, importance), importance);
        const double rtn = weighted_error(matrix, encoded(Encoder::rtn, matrix, format, scales), importance);
        // The reference's exact q·s + b and the loader's f32 one differ by 2^-23 of the weights' size.
        EXPECT_LE(range, rtn * (1 + 1e-9) + 1e-300);
      });
    }
  }
}

/// Range search's share of rtn's weighted error on normal weights, an upper bound with room for chance.
TEST(Range, LowersTheErrorOfNormalWeights) {
  const std::pair<Format, double> bounds[] = {{{2, 32}, 0.60},  {{2, 128}, 0.60}, {{3, 32}, 0.63},
                                              {{3, 128}, 0.70}, {{4, 32}, 0.65},  {{4, 64}, 0.72},
                                              {{4, 128}, 0.77}, {{8, 64}, 0.70}};
  Random random(test::seed());
  const TestMatrix matrix = normal_matrix(random, 16, 1024, DType::bf16);
  const std::vector<float> importance = lognormal_importance(random, 1024);
  for (const auto& [format, bound] : bounds) {
    const double range =
        weighted_error(matrix, encoded(Encoder::range, matrix, format, DType::bf16, importance), importance);
    const double rtn = weighted_error(matrix, encoded(Encoder::rtn, matrix, format, DType::bf16), importance);
    EXPECT_LE(range, bound * rtn) << to_string(format);
    EXPECT_GT(range, 0.3 * rtn) << to_string(format) << ": too good to be true";
  }
}

/// The least weighted error of one group over a fine grid of ranges, in double.
double scanned_error(std::span<const float> weights, std::span<const float> importance, int bits) {
  constexpr double kStep = 0.006;
  const auto [low, high] = std::minmax_element(weights.begin(), weights.end());
  const double width = static_cast<double>(*high) - *low;
  const double top = (1 << bits) - 1;
  double best = std::numeric_limits<double>::infinity();
  for (int i = -20; i < 60; ++i) {
    for (int j = -20; j < 60; ++j) {
      const double bias = *low + i * kStep * width;
      const double scale = (*high - j * kStep * width - bias) / top;
      double error = 0;
      for (std::size_t k = 0; k < weights.size(); ++k) {
        const double level = std::clamp(std::nearbyint((weights[k] - bias) / scale), 0.0, top);
        error += importance[k] * std::pow(weights[k] - level * scale - bias, 2);
      }
      best = std::min(best, error);
    }
  }
  return best;
}

TEST(Range, IsNearTheBestOfADenseScan) {
  Random random(test::seed());
  const TestMatrix matrix = normal_matrix(random, 40, 32, DType::f32);
  const std::vector<float> importance = lognormal_importance(random, 32);
  for (const int bits : {2, 3, 4}) {
    double best = 0;
    for (std::size_t row = 0; row < 40; ++row) {
      best += scanned_error(std::span(matrix.values).subspan(row * 32, 32), importance, bits);
    }
    const double range = weighted_error(
        matrix, encoded(Encoder::range, matrix, {bits, 32}, DType::f32, importance), importance);
    EXPECT_LE(range, 1.08 * best) << bits << " bits";
  }
}

TEST(Range, FollowsImportance) {
  Random random(test::seed());
  const TestMatrix matrix = normal_matrix(random, 64, 256, DType::bf16);
  const std::vector<float> importance = lognormal_importance(random, 256, 2);
  const QuantizedMatrix aware = encoded(Encoder::range, matrix, {3, 64}, DType::bf16, importance);
  const QuantizedMatrix blind = encoded(Encoder::range, matrix, {3, 64}, DType::bf16);
  EXPECT_LT(weighted_error(matrix, aware, importance), 0.9 * weighted_error(matrix, blind, importance));
  EXPECT_LT(weighted_error(matrix, blind, {}), 0.95 * weighted_error(matrix, aware, {}));
}

TEST(Range, TreatsChannelsThatCalibrationNeverSawAlike) {
  Random random(test::seed());
  const TestMatrix matrix = normal_matrix(random, 4, 128, DType::bf16);
  const QuantizedMatrix unseen =
      encoded(Encoder::range, matrix, {2, 64}, DType::bf16, std::vector<float>(128, 0.0f));
  const QuantizedMatrix blind = encoded(Encoder::range, matrix, {2, 64}, DType::bf16);
  EXPECT_EQ(unseen.weight, blind.weight);
  EXPECT_EQ(unseen.scales, blind.scales);
  EXPECT_EQ(unseen.biases, blind.biases);
}

/// Rows encoded one by one, in this thread, against all rows at once on the pool.
TEST(Encode, DoesNotDependOnThreads) {
  ASSERT_EQ(::setenv("OPTIQ_THREADS", "4", 0), 0);  // read once, when the pool starts
  Random random(test::seed());
  const std::int64_t rows = 700;
  const std::int64_t columns = 256;
  const TestMatrix matrix = normal_matrix(random, rows, columns, DType::f16);
  const std::vector<float> importance = lognormal_importance(random, columns);
  for (const Encoder encoder : {Encoder::rtn, Encoder::range}) {
    const QuantizedMatrix whole = encoded(encoder, matrix, {3, 32}, DType::f16, importance);
    QuantizedMatrix pieces;
    for (std::int64_t row = 0; row < rows; ++row) {
      const MatrixView view{
          1, columns, DType::f16,
          std::span(matrix.bytes).subspan(static_cast<std::size_t>(row * columns * 2), 512)};
      const auto piece = encode(encoder, view, {3, 32}, DType::f16, {importance}, "w");
      ASSERT_TRUE(piece);
      pieces.weight.insert(pieces.weight.end(), piece->weight.begin(), piece->weight.end());
      pieces.scales.insert(pieces.scales.end(), piece->scales.begin(), piece->scales.end());
      pieces.biases.insert(pieces.biases.end(), piece->biases.begin(), piece->biases.end());
    }
    EXPECT_EQ(whole.weight, pieces.weight);
    EXPECT_EQ(whole.scales, pieces.scales);
    EXPECT_EQ(whole.biases, pieces.biases);
  }
}

void expect_refused(const Result<QuantizedMatrix>& result, const std::string& part) {
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::bad_input);
  EXPECT_EQ(result.error().message.rfind("model.w: ", 0), 0u) << result.error().message;
  EXPECT_NE(result.error().message.find(part), std::string::npos) << result.error().message;
}

TEST(Encode, NamesTheFirstWeightThatIsNotFinite) {
  for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    for (const DType dtype : kFloatTypes) {
      const TestMatrix matrix(600, 256, dtype, [&](auto row, auto column) {
        return row >= 400 && row % 100 == 7 && column >= 130 ? bad : 0.001 * static_cast<double>(column);
      });
      for (const Encoder encoder : {Encoder::rtn, Encoder::range}) {
        expect_refused(encode(encoder, matrix.view(), {4, 64}, dtype, {}, "model.w"), "row 407, column 130");
      }
    }
  }
}

TEST(Encode, RefusesWeightsThatScalesCannotHold) {
  const TestMatrix matrix(3, 64, DType::f32,
                          [](auto row, auto column) { return row == 2 && column == 5 ? 1e6 : 1.0; });
  for (const Encoder encoder : {Encoder::rtn, Encoder::range}) {
    expect_refused(encode(encoder, matrix.view(), {4, 64}, DType::f16, {}, "model.w"), "row 2");
    EXPECT_TRUE(encode(encoder, matrix.view(), {4, 64}, DType::bf16, {}, "model.w"));
  }
}

TEST(Encode, RefusesWhatDoesNotFit) {
  const TestMatrix matrix(2, 96, DType::f32, [](auto, auto) { return 1.0; });
  const auto attempt = [](MatrixView view, Format format, DType scales, std::vector<float> importance) {
    return encode(Encoder::range, view, format, scales, {importance}, "model.w");
  };
  expect_refused(attempt(matrix.view(), {4, 64}, DType::f32, {}), "multiple of the group size 64, got 96");
  expect_refused(attempt(matrix.view(), {16, 0}, DType::f32, {}), "dense");
  expect_refused(attempt(matrix.view(), {4, 32}, DType::u8, {}), "F32 and U8");
  expect_refused(attempt(matrix.view(), {4, 32}, DType::f32, std::vector<float>(95, 1.0f)),
                 "96 channels, got 95");
  for (const float bad : {-1.0f, std::nanf(""), HUGE_VALF}) {
    std::vector<float> importance(96, 1.0f);
    importance[7] = bad;
    expect_refused(attempt(matrix.view(), {4, 32}, DType::f32, importance), "channel 7");
  }
  MatrixView lying = matrix.view();
  lying.out_features = 3;
  expect_refused(attempt(lying, {4, 32}, DType::f32, {}), "[3, 96]");
  lying.out_features = std::int64_t{1} << 62;
  expect_refused(attempt(lying, {4, 32}, DType::f32, {}), "768 bytes");
  lying.out_features = -2;
  expect_refused(attempt(lying, {4, 32}, DType::f32, {}), "[-2, 96]");
}

}  // namespace
}  // namespace optiq::quant
