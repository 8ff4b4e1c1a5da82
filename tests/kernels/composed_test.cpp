// Our CPU primitives against the composition of MLX operations that runs on GPUs: two implementations, one
// meaning.
#include "src/kernels/composed.h"

#include "support/arrays.h"

namespace optiq::kernels {
namespace {

using namespace optiq::test;

/// The two functions agree in value and in every gradient, up to `tolerance` of the largest value.
void expect_same(const ArrayFunction& ours, const ArrayFunction& mlx, const std::vector<mx::array>& inputs,
                 Random& random, double tolerance) {
  const Doubles expected = values(mlx(inputs));
  EXPECT_TRUE(close(ours(inputs), expected, tolerance * largest(expected)));
  const mx::array cotangent = random_array(random, mlx(inputs).shape());
  const auto our_gradients = array_vjp(ours, inputs, cotangent),
             gradients = array_vjp(mlx, inputs, cotangent);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Doubles gradient = values(gradients[i]);
    EXPECT_TRUE(close(our_gradients[i], gradient, tolerance * largest(gradient))) << "gradient " << i;
  }
}

TEST(Composed, Linear) {
  Random random(51);
  for (const Compute compute : {Compute::f32, Compute::bf16}) {
    expect_same([=](const auto& a) { return linear(a[0], a[1], a[2], compute); },
                [=](const auto& a) { return composed::linear(a[0], a[1], a[2], compute); },
                {random_array(random, {2, 6, 33}), random_array(random, {20, 33}, mx::bfloat16),
                 random_array(random, {20})},
                random, 5e-6);
  }
}

TEST(Composed, QuantizedLinearAndEmbedding) {
  Random random(52);
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    const auto parts = mx::quantize(random_array(random, {40, 128}, mx::bfloat16), 64, bits);
    const QuantizedWeight w{parts[0], parts[1], parts[2], bits, 64};
    expect_same([&](const auto& a) { return quantized_linear(a[0], w); },
                [&](const auto& a) { return composed::quantized_linear(a[0], w, std::nullopt); },
                {random_array(random, {6, 128})}, random, 5e-6);
    const mx::array tokens = random_indices(random, {7}, 40);
    EXPECT_TRUE(
        close(quantized_embedding(tokens, w), values(composed::quantized_embedding(tokens, w)), 1e-6));
  }
}

TEST(Composed, RowOperations) {
  Random random(53);
  const mx::array x = random_array(random, {2, 3, 5, 16}), weight = random_array(random, {16});
  expect_same([](const auto& a) { return rms_norm(a[0], a[1], 1e-5f); },
              [](const auto& a) { return composed::rms_norm(a[0], a[1], 1e-5f); }, {x, weight}, random, 1e-5);
  expect_same([](const auto& a) { return swiglu(a[0], a[1]); },
              [](const auto& a) { return composed::swiglu(a[0], a[1]); },
              {x, random_array(random, {2, 3, 5, 16})}, random, 1e-5);
  const mx::array frequencies({1.0f, 0.3f, 0.1f});
  expect_same([&](const auto& a) { return rope(a[0], frequencies, 9, 1.3f); },
              [&](const auto& a) { return composed::rope(a[0], frequencies, 9, 1.3f); }, {x}, random, 1e-5);
  const mx::array tokens = random_indices(random, {12}, 5);
  expect_same([&](const auto& a) { return embedding(tokens, a[0]); },
              [&](const auto& a) { return composed::embedding(tokens, a[0]); },
              {random_array(random, {6, 9})}, random, 1e-5);
}

TEST(Composed, Attention) {
  Random random(54);
  for (const int window : {0, 3}) {
    expect_same([=](const auto& a) { return attention(a[0], a[1], a[2], 0.3f, window); },
                [=](const auto& a) { return composed::attention(a[0], a[1], a[2], 0.3f, window); },
                {random_array(random, {2, 6, 5, 8}), random_array(random, {2, 2, 9, 8}),
                 random_array(random, {2, 2, 9, 8})},
                random, 1e-5);
  }
}

TEST(Composed, Logits) {
  Random random(55);
  const mx::array p = random_array(random, {5, 300}), q = random_array(random, {5, 300});
  const mx::array labels = random_indices(random, {5}, 300);
  expect_same([&](const auto& a) { return label_log_probabilities(a[0], labels); },
              [&](const auto& a) { return composed::label_log_probabilities(a[0], labels); }, {p}, random,
              1e-5);
  EXPECT_TRUE(close(kl_divergence(p, q), values(composed::kl_divergence(p, q)), 1e-5));
  EXPECT_TRUE(close(gram(p), values(composed::gram(p)), 1e-3));
  const TopProbabilities top = composed::top_probabilities(p, 20);
  const TopProbabilities ours = top_probabilities(p, 20);
  EXPECT_TRUE(close(ours.log_tail, values(top.log_tail), 1e-4));
  EXPECT_TRUE(close(mx::sort(ours.tokens, 1), values(mx::sort(top.tokens, 1)), 0));
  expect_same([&](const auto& a) { return top_divergence(top, a[0]); },
              [&](const auto& a) { return composed::top_divergence(top, a[0]); }, {q}, random, 1e-4);
  const mx::array uniforms({0.0f, 0.2f, 0.5f, 0.7f, 0.999f});
  EXPECT_EQ(values(sample_rows(p, uniforms)), values(composed::sample_rows(p, uniforms)));
}

TEST(Composed, Dequantize) {
  Random random(57);
  const mx::array weight = random_array(random, {6, 128});
  const auto packed = mx::quantize(weight, 64, 3);
  const auto matrix = [&](const auto& a) { return QuantizedWeight{packed[0], a[0], a[1], 3, 64}; };
  expect_same([&](const auto& a) { return dequantize(matrix(a)); },
              [&](const auto& a) { return composed::dequantize(matrix(a)); }, {packed[1], packed[2]}, random,
              1e-5);
}

}  // namespace
}  // namespace optiq::kernels
