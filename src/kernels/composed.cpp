#include "composed.h"

#include "check.h"

namespace optiq::kernels::composed {
namespace {

using Arrays = std::vector<mx::array>;

mx::array as_f32(const mx::array& x) {
  return mx::astype(x, mx::float32);
}

mx::array with_bias(const mx::array& y, const std::optional<mx::array>& bias) {
  return bias ? mx::add(y, mx::astype(*bias, y.dtype())) : y;
}

mx::array rows_of(const mx::array& x) {
  return mx::reshape(x, {-1, x.shape(-1)});
}

/// An operand as the product takes it. mlx-cpu accumulates bf16 products in bf16 (tests: MlxHazards), so
/// there the rounded values go back to f32.
mx::array operand(const mx::array& a, mx::Dtype activation, Compute compute) {
  if (compute == Compute::f32) return mx::astype(a, activation);
  const mx::array rounded = mx::astype(a, mx::bfloat16);
  return on_cpu() ? as_f32(rounded) : rounded;
}

mx::array dense_product(const mx::array& x, const mx::array& weight, Compute compute) {
  const mx::array w = operand(weight, x.dtype(), compute);
  return mx::astype(mx::matmul(operand(x, x.dtype(), compute), mx::transpose(w)), x.dtype());
}

/// dx in x's dtype, dW in f32 whatever W is stored in.
Arrays dense_product_vjp(const mx::array& x, const mx::array& weight, const mx::array& dy, Compute compute) {
  const mx::array cotangent = operand(dy, x.dtype(), compute);
  const mx::array dx = mx::matmul(cotangent, operand(weight, x.dtype(), compute));
  const mx::array dw = mx::matmul(mx::transpose(rows_of(cotangent)), rows_of(operand(x, x.dtype(), compute)));
  return {mx::astype(dx, x.dtype()), as_f32(dw)};
}

/// true where query t may see key s; [T, S].
mx::array causal_window_mask(int queries, int keys, int window) {
  const mx::array newest = mx::expand_dims(mx::arange(keys - queries, keys), 1);
  const mx::array key = mx::expand_dims(mx::arange(keys), 0);
  const mx::array causal = mx::less_equal(key, newest);
  return mx::logical_and(causal, mx::greater(key, mx::subtract(newest, mx::array(window))));
}

/// Row-wise log softmax in f32.
mx::array log_softmax(const mx::array& logits) {
  const mx::array x = as_f32(logits);
  return mx::subtract(x, mx::logsumexp(x, -1, true));
}

}  // namespace

mx::array linear(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias,
                 Compute compute) {
  const auto product =
      mx::custom_vjp([compute](const Arrays& in) -> Arrays { return {dense_product(in[0], in[1], compute)}; },
                     [compute](const Arrays& in, const Arrays& cotangents, const Arrays&) {
                       return dense_product_vjp(in[0], in[1], cotangents[0], compute);
                     });
  return with_bias(product({x, weight})[0], bias);
}

mx::array quantized_linear(const mx::array& x, const QuantizedWeight& weight,
                           const std::optional<mx::array>& bias) {
  // mlx-cpu accumulates in the activations' dtype: f32 in, so f32 throughout there.
  const mx::array scales = mx::astype(weight.scales, x.dtype());
  const mx::array biases = mx::astype(weight.biases, x.dtype());
  return with_bias(
      mx::quantized_matmul(x, weight.weight, scales, biases, true, weight.group_size, weight.bits), bias);
}

mx::array embedding(const mx::array& tokens, const mx::array& table) {
  return as_f32(mx::take(table, tokens, 0));
}

mx::array quantized_embedding(const mx::array& tokens, const QuantizedWeight& table) {
  // Scales are cast first: dequantize would round its product to their dtype.
  const auto rows = [&](const mx::array& a) { return mx::take(a, tokens, 0); };
  return mx::dequantize(rows(table.weight), as_f32(rows(table.scales)), as_f32(rows(table.biases)),
                        table.group_size, table.bits);
}

mx::array dequantize(const QuantizedWeight& weight) {
  return mx::dequantize(weight.weight, as_f32(weight.scales), as_f32(weight.biases), weight.group_size,
                        weight.bits);
}

mx::array rms_norm(const mx::array& x, const mx::array& weight, float eps) {
  return mx::fast::rms_norm(x, mx::astype(weight, x.dtype()), eps);
}

mx::array rope(const mx::array& x, const mx::array& inverse_frequencies, int offset, float magnitude) {
  const int n = inverse_frequencies.shape(0);
  const mx::array turned =
      mx::fast::rope(x, 2 * n, false, std::nullopt, 1.0f, offset, mx::reciprocal(inverse_frequencies));
  if (magnitude == 1.0f) return turned;
  const mx::array channel = mx::arange(x.shape(-1));
  const mx::array factor =
      mx::where(mx::less(channel, mx::array(2 * n)), mx::array(magnitude), mx::array(1.0f));
  return mx::multiply(turned, mx::astype(factor, x.dtype()));
}

mx::array attention(const mx::array& q, const mx::array& k, const mx::array& v, float scale, int window) {
  const int queries = q.shape(2), keys = k.shape(2);
  if (window <= 0 || window >= keys) return mx::fast::scaled_dot_product_attention(q, k, v, scale, "causal");
  return mx::fast::scaled_dot_product_attention(q, k, v, scale, "",
                                                causal_window_mask(queries, keys, window));
}

mx::array swiglu(const mx::array& gate, const mx::array& up) {
  return mx::multiply(mx::multiply(gate, mx::sigmoid(gate)), up);
}

mx::array label_log_probabilities(const mx::array& logits, const mx::array& labels) {
  const mx::array picked = mx::take_along_axis(log_softmax(logits), mx::expand_dims(labels, 1), 1);
  return mx::squeeze(picked, 1);
}

mx::array sample_rows(const mx::array& logits, const mx::array& uniforms) {
  const mx::array cumulative = mx::cumsum(mx::softmax(as_f32(logits), -1, true), 1);
  const int last = logits.shape(1) - 1;
  const mx::array total = mx::slice(cumulative, {0, last}, cumulative.shape());
  const mx::array target = mx::multiply(mx::expand_dims(uniforms, 1), total);
  const mx::array passed = mx::astype(mx::less_equal(cumulative, target), mx::int32);
  return mx::minimum(mx::sum(passed, 1), mx::array(last));
}

mx::array kl_divergence(const mx::array& reference, const mx::array& logits) {
  const mx::array p = log_softmax(reference), q = log_softmax(logits);
  const mx::array sum = mx::sum(mx::multiply(mx::exp(p), mx::subtract(p, q)), 1);
  return mx::maximum(sum, mx::array(0.0f));
}

namespace {

/// log(1 − Σ exp) of each row, at least log(1e-9).
mx::array log_rest(const mx::array& log_probabilities) {
  const mx::array rest = mx::subtract(mx::array(1.0f), mx::sum(mx::exp(log_probabilities), 1));
  return mx::log(mx::maximum(rest, mx::array(1e-9f)));
}

}  // namespace

TopProbabilities top_probabilities(const mx::array& logits, int count) {
  const mx::array order = mx::argpartition(mx::negative(logits), count - 1, 1);
  const mx::array tokens = mx::slice(order, {0, 0}, {logits.shape(0), count});
  const mx::array kept = mx::take_along_axis(log_softmax(logits), tokens, 1);
  return {mx::astype(tokens, mx::int32), kept, log_rest(kept)};
}

mx::array top_divergence(const TopProbabilities& reference, const mx::array& logits) {
  const mx::array q = mx::take_along_axis(log_softmax(logits), reference.tokens, 1);
  const mx::array& p = reference.log_probabilities;
  const mx::array kept = mx::sum(mx::multiply(mx::exp(p), mx::subtract(p, q)), 1);
  return kept + mx::exp(reference.log_tail) * (reference.log_tail - log_rest(q));
}

mx::array gram(const mx::array& x) {
  const mx::array rows = rows_of(as_f32(x));
  return mx::matmul(mx::transpose(rows), rows);
}

}  // namespace optiq::kernels::composed
