#include "kernels/reference.h"
#include "optiq/kernels/ops.h"
#include "optiq/quant/format.h"

namespace optiq::kernels {
namespace {

using namespace optiq::test;

/// A random matrix of a format: every bit pattern is a valid weight. Half of the scales are negative, as
/// MLX's are.
QuantizedWeight random_weight(Random& random, int out, int in, int bits, int group, mx::Dtype dtype) {
  std::vector<std::uint32_t> words(static_cast<std::size_t>(out) * in / 32 * bits);
  for (std::uint32_t& word : words) word = static_cast<std::uint32_t>(random.next());
  const mx::array weight(words.begin(), {out, in / 32 * bits});
  return {weight, random_array(random, {out, in / group}, dtype, 0.1),
          random_array(random, {out, in / group}, dtype), bits, group};
}

/// q·s + b in double, each q picked bit by bit from the stream.
Doubles dequantized(const QuantizedWeight& w) {
  const int out = w.scales.shape(0), in = w.scales.shape(1) * w.group_size, row_words = w.weight.shape(1);
  const Doubles scales = values(w.scales), biases = values(w.biases);
  const auto* words = w.weight.data<std::uint32_t>();
  Doubles y;
  for (int o = 0; o < out; ++o) {
    for (int i = 0; i < in; ++i) {
      unsigned q = 0;
      for (int bit = 0; bit < w.bits; ++bit) {
        const int at = i * w.bits + bit;
        q |= (words[o * row_words + at / 32] >> (at % 32) & 1u) << bit;
      }
      const int group = o * w.scales.shape(1) + i / w.group_size;
      y.push_back(q * scales[group] + biases[group]);
    }
  }
  return y;
}

/// Rounding of the weight itself and of f32 sums of `terms` products.
double bound(const Doubles& x, const Doubles& w, std::size_t terms) {
  return largest_row_norm(x, terms) * largest_row_norm(w, terms) * kF32Epsilon * (4 + std::sqrt(terms));
}

template <class Body>
void for_each_format(Body body) {
  for (const int bits : quant::kBitChoices) {
    for (const int group : quant::kGroupChoices) {
      for (const mx::Dtype dtype : {mx::float32, mx::float16, mx::bfloat16}) body(bits, group, dtype);
    }
  }
}

TEST(QuantizedLinear, MatchesTheDoubleReferenceInEveryFormat) {
  Random random(41);
  for_each_format([&](int bits, int group, mx::Dtype dtype) {
    const int in = group * (1 + static_cast<int>(random.below(4))),
              out = 1 + static_cast<int>(random.below(60));
    const QuantizedWeight w = random_weight(random, out, in, bits, group, dtype);
    const Doubles dense = dequantized(w);
    const mx::array bias = random_array(random, {out}, dtype);
    for (const int rows : {1, 2, 3, 4, 5, 23}) {
      const mx::array x = random_array(random, {rows, in});
      const Doubles expected = reference::matmul_transposed(values(x), dense, in);
      const double tolerance = bound(values(x), dense, in);
      EXPECT_TRUE(close(quantized_linear(x, w), expected, tolerance))
          << bits << "x" << group << " rows " << rows;
      EXPECT_TRUE(
          close(quantized_linear(x, w, bias), reference::add_bias(expected, values(bias)), 2 * tolerance));
    }
  });
}

TEST(QuantizedLinear, WideRowsCrossTheInnerBlock) {
  Random random(42);
  for (const int bits : quant::kBitChoices) {
    const QuantizedWeight w = random_weight(random, 150, 1024 + 96, bits, 32, mx::bfloat16);
    const Doubles dense = dequantized(w);
    const mx::array x = random_array(random, {7, 1024 + 96});
    EXPECT_TRUE(close(quantized_linear(x, w), reference::matmul_transposed(values(x), dense, 1120),
                      bound(values(x), dense, 1120)));
  }
}

TEST(QuantizedLinear, GradientMatchesTheDoubleReference) {
  Random random(43);
  for_each_format([&](int bits, int group, mx::Dtype dtype) {
    const QuantizedWeight w = random_weight(random, 45, 2 * group, bits, group, dtype);
    const auto in = static_cast<std::size_t>(2 * group);
    const Doubles dense = dequantized(w);
    Doubles columns(dense.size());
    for (std::size_t i = 0; i < dense.size(); ++i) columns[i % in * 45 + i / in] = dense[i];
    const mx::array x = random_array(random, {6, 2 * group}), dy = random_array(random, {6, 45});
    const auto got = array_vjp([&](const auto& a) { return quantized_linear(a[0], w); }, {x}, dy);
    EXPECT_TRUE(
        close(got[0], reference::matmul_transposed(values(dy), columns, 45), bound(values(dy), columns, 45)));
  });
}

TEST(QuantizedLinear, AgreesWithMlxOnWhatMlxQuantized) {
  Random random(44);
  for (const int bits : quant::kBitChoices) {
    const auto parts = mx::quantize(random_array(random, {40, 128}), 64, bits);
    const QuantizedWeight w{parts[0], parts[1], parts[2], bits, 64};
    const mx::array x = random_array(random, {9, 128});
    const mx::array dense = mx::dequantize(parts[0], parts[1], parts[2], 64, bits);
    EXPECT_TRUE(close(quantized_linear(x, w), values(mx::matmul(x, mx::transpose(dense))),
                      2 * bound(values(x), values(dense), 128)));
  }
}

TEST(QuantizedEmbedding, DequantizesRowsInF32) {
  Random random(45);
  for_each_format([&](int bits, int group, mx::Dtype dtype) {
    const QuantizedWeight table = random_weight(random, 30, 2 * group, bits, group, dtype);
    const mx::array tokens = random_indices(random, {2, 20}, 30);
    const auto width = static_cast<std::size_t>(2 * group);
    const Doubles dense = dequantized(table), ids = values(tokens),
                  y = values(quantized_embedding(tokens, table));
    Doubles expected;
    for (const double id : ids) {
      const auto row = dense.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(id) * width);
      expected.insert(expected.end(), row, row + static_cast<std::ptrdiff_t>(width));
    }
    EXPECT_TRUE(close(y, expected, largest(expected) * 2 * kF32Epsilon)) << bits << "x" << group;
  });
}

TEST(QuantizedEmbedding, TokensOutsideTheTableGiveNaNRows) {
  Random random(46);
  const QuantizedWeight table = random_weight(random, 3, 32, 4, 32, mx::float32);
  for (const double value : values(quantized_embedding(mx::array({3, -1}), table)))
    EXPECT_TRUE(std::isnan(value));
}

TEST(Dequantize, GivesTheMatrixInEveryFormat) {
  Random random(48);
  for_each_format([&](int bits, int group, mx::Dtype dtype) {
    const QuantizedWeight w =
        random_weight(random, 1 + static_cast<int>(random.below(40)), 2 * group, bits, group, dtype);
    const Doubles expected = dequantized(w);
    EXPECT_TRUE(close(dequantize(w), expected, 2 * kF32Epsilon * largest(expected))) << bits << "x" << group;
  });
}

TEST(Dequantize, GradientsAreSumsOverEachGroup) {
  Random random(49);
  for (const int bits : quant::kBitChoices) {
    const QuantizedWeight w = random_weight(random, 19, 192, bits, 64, mx::float32);
    const mx::array cotangent = random_array(random, {19, 192});
    const auto gradients = array_vjp(
        [&](const auto& in) {
          QuantizedWeight moved = w;
          moved.scales = in[0];
          moved.biases = in[1];
          return dequantize(moved);
        },
        {w.scales, w.biases}, cotangent);
    QuantizedWeight levels = w;  // scale one, bias nought
    levels.scales = mx::ones_like(w.scales);
    levels.biases = mx::zeros_like(w.biases);
    const Doubles q = dequantized(levels), dw = values(cotangent);
    Doubles dscales(57, 0.0), dbiases(57, 0.0);
    for (std::size_t i = 0; i < dw.size(); ++i) {
      dscales[i / 64] += dw[i] * q[i];
      dbiases[i / 64] += dw[i];
    }
    EXPECT_TRUE(close(gradients[0], dscales, 64 * kF32Epsilon * largest(dw) * (1 << bits) * 8)) << bits;
    EXPECT_TRUE(close(gradients[1], dbiases, 64 * kF32Epsilon * largest(dw) * 8)) << bits;
  }
}

}  // namespace
}  // namespace optiq::kernels
