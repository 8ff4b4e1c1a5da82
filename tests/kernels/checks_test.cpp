// Wrong arguments are refused before any work, with a message that names operation and argument.
#include <gtest/gtest.h>

#include <functional>

#include "optiq/kernels/ops.h"

namespace optiq::kernels {
namespace {

void expect_refused(const std::function<mx::array()>& call, const std::string& start) {
  try {
    call();
    ADD_FAILURE() << start << ": accepted";
  } catch (const std::invalid_argument& error) {
    EXPECT_EQ(std::string(error.what()).rfind(start, 0), 0u) << error.what();
    EXPECT_NE(std::string(error.what()).find("expected"), std::string::npos) << error.what();
  }
}

mx::array floats(mx::Shape shape) {
  return mx::ones(std::move(shape));
}

TEST(Checks, Linear) {
  expect_refused([] { return linear(floats({2, 3}), floats({4, 5})); }, "linear: x:");
  expect_refused(
      [] {
        return linear(mx::astype(floats({2, 5}), mx::float16), floats({4, 5}));
      },
      "linear: x:");
  expect_refused([] { return linear(floats({2, 5}), floats({4, 5, 1})); }, "linear: weight:");
  expect_refused(
      [] {
        return linear(floats({2, 5}), mx::astype(floats({4, 5}), mx::int32));
      },
      "linear: weight:");
  expect_refused([] { return linear(floats({2, 0}), floats({4, 0})); }, "linear: weight:");
  expect_refused([] { return linear(floats({2, 5}), floats({4, 5}), floats({5})); }, "linear: bias:");
}

QuantizedWeight quantized(int words, int groups, int bits, int group_size) {
  return {mx::zeros({4, words}, mx::uint32), floats({4, groups}), floats({4, groups}), bits, group_size};
}

TEST(Checks, Quantized) {
  const mx::array x = floats({2, 64});
  expect_refused([&] { return quantized_linear(x, quantized(8, 1, 7, 64)); }, "quantized_linear: bits:");
  expect_refused([&] { return quantized_linear(x, quantized(8, 4, 4, 16)); },
                 "quantized_linear: group_size:");
  expect_refused([&] { return quantized_linear(x, quantized(7, 1, 4, 64)); }, "quantized_linear: weight:");
  expect_refused(
      [&] {
        return quantized_linear(floats({2, 65}), quantized(8, 1, 4, 64));
      },
      "quantized_linear: x:");
  QuantizedWeight mixed = quantized(8, 1, 4, 64);
  mixed.biases = mx::astype(mixed.biases, mx::bfloat16);
  expect_refused([&] { return quantized_linear(x, mixed); }, "quantized_linear: biases:");
  expect_refused([&] { return quantized_embedding(x, quantized(8, 1, 4, 64)); },
                 "quantized_embedding: tokens:");
}

TEST(Checks, Rows) {
  expect_refused([] { return embedding(floats({3}), floats({4, 5})); }, "embedding: tokens:");
  expect_refused([] { return embedding(mx::array({1}), floats({4})); }, "embedding: table:");
  expect_refused([] { return rms_norm(floats({2, 3}), floats({4}), 1e-5f); }, "rms_norm: x:");
  expect_refused([] { return rope(floats({1, 1, 2, 4}), floats({3}), 0); }, "rope: inverse_frequencies:");
  expect_refused([] { return rope(floats({1, 2, 4}), floats({2}), 0); }, "rope: x:");
  expect_refused([] { return rope(floats({1, 1, 2, 4}), floats({2}), -1); }, "rope: offset:");
  expect_refused([] { return swiglu(floats({2, 3}), floats({3, 2})); }, "swiglu: up:");
}

TEST(Checks, Attention) {
  const mx::array q = floats({1, 4, 3, 8});
  expect_refused(
      [&] {
        return attention(q, floats({1, 3, 3, 8}), floats({1, 3, 3, 8}), 1);
      },
      "attention: q:");
  expect_refused(
      [&] {
        return attention(q, floats({1, 2, 2, 8}), floats({1, 2, 2, 8}), 1);
      },
      "attention: k:");
  expect_refused(
      [&] {
        return attention(q, floats({1, 2, 3, 7}), floats({1, 2, 3, 8}), 1);
      },
      "attention: k:");
  expect_refused(
      [&] {
        return attention(q, floats({1, 2, 3, 8}), floats({1, 2, 4, 8}), 1);
      },
      "attention: v:");
  expect_refused(
      [&] {
        return attention(q, floats({1, 2, 3, 8}), floats({1, 2, 3, 8}), 1, -1);
      },
      "attention: window:");
}

TEST(Checks, Logits) {
  const mx::array logits = floats({2, 5});
  expect_refused([&] { return label_log_probabilities(logits, mx::array({1})); },
                 "label_log_probabilities: labels:");
  expect_refused([&] { return label_log_probabilities(logits, floats({2})); },
                 "label_log_probabilities: labels:");
  expect_refused([&] { return kl_divergence(logits, floats({2, 6})); }, "kl_divergence: logits:");
  expect_refused([&] { return sample_rows(logits, floats({3})); }, "sample_rows: uniforms:");
  expect_refused([&] { return gram(mx::array(1.0f)); }, "gram: x:");
  expect_refused([&] { return top_probabilities(logits, 5).tokens; }, "top_probabilities: count:");
  expect_refused(
      [&] {
        return top_divergence(top_probabilities(logits, 2), floats({2, 6, 1}));
      },
      "top_divergence: logits:");
  expect_refused(
      [&] {
        return top_divergence(top_probabilities(logits, 2), floats({3, 5}));
      },
      "top_divergence: tokens:");
}

}  // namespace
}  // namespace optiq::kernels
