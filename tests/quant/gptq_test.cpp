#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "matrices.h"
#include "optiq/base/threads.h"
#include "optiq/quant/encoder.h"
#include "support/contains.h"
#include "support/seed.h"

namespace optiq::quant {
namespace {

using Doubles = std::vector<double>;

/// Second moments of inputs that are mixtures of few directions, with channels of very different size.
std::vector<float> random_moments(Random& random, std::size_t size) {
  const std::size_t samples = 3 * size;
  std::vector<float> moments(size * size, 0.0f);
  Doubles scale(size), mixed(size);
  for (double& value : scale) value = std::exp(random.normal());
  for (std::size_t s = 0; s < samples; ++s) {
    const double common = random.normal();
    for (std::size_t i = 0; i < size; ++i) mixed[i] = scale[i] * (random.normal() + common);
    for (std::size_t i = 0; i < size; ++i) {
      for (std::size_t j = 0; j < size; ++j)
        moments[i * size + j] += static_cast<float>(mixed[i] * mixed[j] / static_cast<double>(samples));
    }
  }
  for (std::size_t i = 0; i < size; ++i) {
    for (std::size_t j = 0; j < i; ++j) moments[i * size + j] = moments[j * size + i];
  }
  return moments;
}

Gram make_gram(std::vector<float> moments) {
  const auto size = static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(moments.size()))));
  return Gram::make(std::move(moments), size, "m").value();
}

TestMatrix random_matrix(Random& random, std::int64_t rows, std::int64_t columns, DType dtype = DType::f32) {
  return TestMatrix(rows, columns, dtype, [&](auto, auto) { return 0.02 * random.normal(); });
}

std::vector<float> restored(const QuantizedMatrix& matrix) {
  std::vector<float> values(static_cast<std::size_t>(matrix.out_features * matrix.in_features), -1e30f);
  const auto in = static_cast<std::size_t>(matrix.in_features);
  for (std::int64_t row = 0; row < matrix.out_features; ++row)
    dequantize_row(matrix, row, std::span(values).subspan(static_cast<std::size_t>(row) * in, in));
  return values;
}

/// Σ over rows of e·H·eᵀ in double.
double output_error(const TestMatrix& matrix, const std::vector<float>& stored,
                    const std::vector<float>& moments) {
  const auto in = static_cast<std::size_t>(matrix.columns);
  double total = 0;
  for (std::size_t row = 0; row < static_cast<std::size_t>(matrix.rows); ++row) {
    Doubles error(in);
    for (std::size_t i = 0; i < in; ++i)
      error[i] = static_cast<double>(matrix.values[row * in + i]) - stored[row * in + i];
    for (std::size_t i = 0; i < in; ++i) {
      const double weighted = std::inner_product(error.begin(), error.end(),
                                                 moments.begin() + static_cast<std::ptrdiff_t>(i * in), 0.0);
      total += error[i] * weighted;
    }
  }
  return total;
}

QuantizedMatrix encoded(Encoder encoder, const TestMatrix& matrix, Format format, const Inputs& inputs,
                        DType scales = DType::bf16) {
  auto result = encode(encoder, matrix.view(), format, scales, inputs, "w");
  EXPECT_TRUE(result) << result.error().message;
  return std::move(*result);
}

TEST(Gram, FactorsGiveTheMomentsBack) {
  Random random(test::seed());
  for (const int group_size : kGroupChoices) {
    constexpr std::size_t size = 256;
    const std::vector<float> moments = random_moments(random, size);
    const Gram gram = make_gram(moments);
    const GramFactor& factor = gram.factor(group_size);
    double diagonal = 0;
    for (std::size_t i = 0; i < size; ++i) diagonal += moments[i * size + i] / static_cast<double>(size);
    double largest = 0;
    for (std::size_t i = 0; i < size; ++i) {
      EXPECT_GT(factor.conditional[i], 0);
      for (std::size_t j = 0; j < size; ++j) {
        double product = 0;
        for (std::size_t k = std::max(i, j); k < size; ++k)
          product += static_cast<double>(factor.upper[i * size + k]) * factor.conditional[k] *
                     static_cast<double>(factor.upper[j * size + k]);
        const auto at =
            static_cast<std::size_t>(factor.order[i]) * size + static_cast<std::size_t>(factor.order[j]);
        const double expected = moments[at] + (i == j ? factor.damping * diagonal : 0.0);
        EXPECT_NEAR(factor.moments[i * size + j], expected, 1e-6 * (std::fabs(expected) + diagonal));
        largest = std::max(
            largest, std::fabs(product - expected) /
                         std::sqrt(static_cast<double>(
                                       moments[static_cast<std::size_t>(factor.order[i]) * (size + 1)]) *
                                   moments[static_cast<std::size_t>(factor.order[j]) * (size + 1)]));
      }
    }
    // Cholesky is backward stable: |LLᵀ − A| ≤ n·ε·sqrt(a_ii·a_jj), doubled for the division by the roots.
    EXPECT_LT(largest, 2.0 * size * std::numeric_limits<float>::epsilon());
  }
}

TEST(Gram, TheOrderKeepsGroupsTogetherAndFallsInImportance) {
  Random random(test::seed());
  const std::vector<float> moments = random_moments(random, 192);
  const Gram gram = make_gram(moments);
  const GramFactor& factor = gram.factor(64);
  std::vector<std::int32_t> sorted = factor.order;
  std::sort(sorted.begin(), sorted.end());
  for (std::size_t i = 0; i < sorted.size(); ++i) EXPECT_EQ(sorted[i], static_cast<std::int32_t>(i));
  const auto diagonal = [&](std::size_t k) {
    return moments[static_cast<std::size_t>(factor.order[k]) * 193];
  };
  for (std::size_t k = 1; k < 192; ++k) {
    if (k % 64 == 0) continue;
    EXPECT_EQ(factor.order[k] / 64, factor.order[k - 1] / 64);
    EXPECT_GE(diagonal(k - 1), diagonal(k));
  }
}

/// H goes from one order into another in place: nothing is lost on the way.
TEST(Gram, FactorsDependOnTheGroupSizeAloneAndLeaveTheMoments) {
  Random random(test::seed());
  const std::vector<float> moments = random_moments(random, 256);
  const Gram gram = make_gram(moments);
  for (const int group_size : {64, 32, 128, 128, 64}) {
    SCOPED_TRACE(group_size);
    const Gram fresh = make_gram(moments);
    const GramFactor &expected = fresh.factor(group_size), &found = gram.factor(group_size);
    EXPECT_EQ(found.order, expected.order);
    EXPECT_EQ(found.moments, expected.moments);
    EXPECT_EQ(found.upper, expected.upper);
    EXPECT_EQ(found.conditional, expected.conditional);
    EXPECT_EQ(gram.moments(), moments);
    for (std::size_t i = 0; i < 256; ++i) EXPECT_EQ(gram.diagonal()[i], moments[i * 257]);
  }
}

TEST(Gram, SingularMomentsAreDampedUntilTheyCanBeFactored) {
  const Gram zero = make_gram(std::vector<float>(64 * 64, 0.0f));
  EXPECT_GT(zero.factor(32).conditional[63], 0);
  std::vector<float> indefinite(64 * 64, 0.0f);  // as rounding can leave it
  for (std::size_t i = 0; i < 64; ++i) indefinite[i * 65] = 1.0f;
  indefinite[1] = indefinite[64] = 1.5f;
  const Gram gram = make_gram(indefinite);
  EXPECT_GT(gram.factor(32).damping, 0.4);
}

TEST(Gram, BadMomentsAreBadInput) {
  const auto message = [](std::vector<float> moments, std::int64_t size) {
    const auto gram = Gram::make(std::move(moments), size, "layer.3");
    EXPECT_FALSE(gram);
    return gram ? std::string() : gram.error().message;
  };
  EXPECT_TRUE(test::contains(message(std::vector<float>(100, 1.0f), 32), "layer.3"));
  EXPECT_TRUE(test::contains(message(std::vector<float>(40 * 40, 1.0f), 40), "multiple of 32"));
  std::vector<float> moments(32 * 32, 1.0f);
  moments[33] = -1;
  EXPECT_TRUE(test::contains(message(moments, 32), "inputs 1 and 1"));
  moments[33] = 1;
  moments[7] = std::nanf("");
  EXPECT_TRUE(test::contains(message(moments, 32), "inputs 0 and 7"));
}

/// GPTQ as its paper has it, one weight at a time in double: levels of min/max pairs, and for input k the row
/// of the inverse of what is left of H.
std::vector<float> plain_gptq(const TestMatrix& matrix, Format format, const std::vector<float>& moments) {
  const auto in = static_cast<std::size_t>(matrix.columns);
  const auto group = static_cast<std::size_t>(format.group_size);
  const double top = (1 << format.bits) - 1;
  Doubles inverse(in * in, 0.0), damped(moments.begin(), moments.end());
  double mean = 0;
  for (std::size_t i = 0; i < in; ++i) mean += damped[i * in + i] / static_cast<double>(in);
  for (std::size_t i = 0; i < in; ++i) {
    damped[i * in + i] += 0.01 * mean;
    inverse[i * in + i] = 1;
  }
  for (std::size_t k = 0; k < in; ++k) {  // Gauss and Jordan
    const double pivot = damped[k * in + k];
    for (std::size_t j = 0; j < in; ++j) damped[k * in + j] /= pivot, inverse[k * in + j] /= pivot;
    for (std::size_t i = 0; i < in; ++i) {
      const double factor = damped[i * in + k];
      if (i == k || factor == 0) continue;
      for (std::size_t j = 0; j < in; ++j) {
        damped[i * in + j] -= factor * damped[k * in + j];
        inverse[i * in + j] -= factor * inverse[k * in + j];
      }
    }
  }
  std::vector<float> result(matrix.values.size());
  Doubles rows(matrix.values.begin(), matrix.values.end());
  Doubles scale(static_cast<std::size_t>(matrix.rows)), bias(scale.size());
  for (std::size_t k = 0; k < in; ++k) {
    for (std::size_t row = 0; row < scale.size(); ++row) {
      double* w = &rows[row * in];
      if (k % group == 0) {
        const auto [low, high] = std::minmax_element(w + k, w + k + group);
        scale[row] = (*high - *low) / top;
        bias[row] = *low;
      }
      const double q = std::clamp(std::rint((w[k] - bias[row]) / scale[row]), 0.0, top);
      const double stored = q * scale[row] + bias[row];
      result[row * in + k] = static_cast<float>(stored);
      const double error = (w[k] - stored) / inverse[k * in + k];
      for (std::size_t j = k + 1; j < in; ++j) w[j] -= error * inverse[k * in + j];
    }
    const Doubles pivot_row(inverse.begin() + static_cast<std::ptrdiff_t>(k * in),
                            inverse.begin() + static_cast<std::ptrdiff_t>((k + 1) * in));
    for (std::size_t i = k + 1; i < in; ++i) {
      for (std::size_t j = k + 1; j < in; ++j)
        inverse[i * in + j] -= inverse[i * in + k] * pivot_row[j] / pivot_row[k];
    }
  }
  return result;
}

TEST(Gptq, BeatsPlainGptqAndRangeSearchInOutputError) {
  Random random(test::seed());
  for (const int bits : kBitChoices) {
    for (const int group_size : kGroupChoices) {
      SCOPED_TRACE(to_string({bits, group_size}));
      const std::vector<float> moments = random_moments(random, 256);
      const Gram gram = make_gram(moments);
      const TestMatrix matrix = random_matrix(random, 40, 256);
      const Format format{bits, group_size};
      std::vector<float> importance(256);
      for (std::size_t i = 0; i < 256; ++i) importance[i] = moments[i * 257];
      const double ours = output_error(
          matrix, restored(encoded(Encoder::gptq, matrix, format, {.gram = &gram}, DType::f32)), moments);
      const double range = output_error(
          matrix, restored(encoded(Encoder::range, matrix, format, {.importance = importance}, DType::f32)),
          moments);
      const double plain = output_error(matrix, plain_gptq(matrix, format, moments), moments);
      EXPECT_LT(ours, 0.8 * range);
      EXPECT_LT(ours, plain);
    }
  }
}

TEST(Gptq, WithIndependentInputsIsAsGoodAsRangeSearch) {
  Random random(test::seed());
  std::vector<float> moments(128 * 128, 0.0f), importance(128);
  for (std::size_t i = 0; i < 128; ++i)
    importance[i] = moments[i * 129] = static_cast<float>(std::exp(random.normal()));
  const Gram gram = make_gram(moments);
  const TestMatrix matrix = random_matrix(random, 33, 128);
  const double ours =
      output_error(matrix, restored(encoded(Encoder::gptq, matrix, {3, 64}, {.gram = &gram})), moments);
  const double range = output_error(
      matrix, restored(encoded(Encoder::range, matrix, {3, 64}, {.importance = importance})), moments);
  EXPECT_LT(ours, 1.02 * range);
}

TEST(Gptq, RowsAreIndependentOfTheirNeighboursAndOfThreads) {
  Random random(test::seed());
  const Gram gram = make_gram(random_moments(random, 128));
  const TestMatrix matrix = random_matrix(random, 70, 128, DType::bf16);
  const QuantizedMatrix whole = encoded(Encoder::gptq, matrix, {4, 32}, {.gram = &gram});
  for (const std::int64_t row : {0, 31, 32, 69}) {
    const MatrixView view{1, 128, DType::bf16,
                          std::span(matrix.bytes).subspan(static_cast<std::size_t>(row) * 256, 256)};
    const auto alone = encode(Encoder::gptq, view, {4, 32}, DType::bf16, {.gram = &gram}, "w");
    ASSERT_TRUE(alone);
    EXPECT_TRUE(std::equal(alone->weight.begin(), alone->weight.end(), whole.weight.begin() + row * 16));
    EXPECT_TRUE(std::equal(alone->scales.begin(), alone->scales.end(), whole.scales.begin() + row * 8));
    EXPECT_TRUE(std::equal(alone->biases.begin(), alone->biases.end(), whole.biases.begin() + row * 8));
  }
}

TEST(Gptq, BadWeightsAndSizesAreNamed) {
  Random random(test::seed());
  const Gram gram = make_gram(random_moments(random, 64));
  TestMatrix matrix = random_matrix(random, 40, 64);
  const float bad = INFINITY;
  std::memcpy(&matrix.bytes[(37 * 64 + 5) * 4], &bad, 4);
  const auto broken = encode(Encoder::gptq, matrix.view(), {4, 32}, DType::f32, {.gram = &gram}, "w");
  ASSERT_FALSE(broken);
  EXPECT_TRUE(test::contains(broken.error().message, "w: row 37, column 5"));
  const TestMatrix wide = random_matrix(random, 2, 128);
  const auto other = encode(Encoder::gptq, wide.view(), {4, 32}, DType::f32, {.gram = &gram}, "w");
  ASSERT_FALSE(other);
  EXPECT_TRUE(test::contains(other.error().message, "w: expected second moments of 128 inputs, got 64"));
}

TEST(Gptq, ConstantAndExtremeWeightsStayFinite) {
  Random random(test::seed());
  const Gram gram = make_gram(random_moments(random, 64));
  for (const double value : {0.0, 1e-30, -0.5, 3e30}) {
    const TestMatrix matrix(3, 64, DType::f32, [&](auto, auto) { return value; });
    for (const float stored : restored(encoded(Encoder::gptq, matrix, {2, 32}, {.gram = &gram}, DType::f32)))
      EXPECT_NEAR(stored, value, 0.01 * std::fabs(value) + 1e-6);
  }
}

}  // namespace
}  // namespace optiq::quant
