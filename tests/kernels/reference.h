// The operations of kernels/ops.h in scalar double precision, written from their definitions.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>

#include "support/arrays.h"

namespace optiq::test::reference {

/// y[r, o] = Σ_i x[r, i]·w[o, i].
inline Doubles matmul_transposed(const Doubles& x, const Doubles& w, std::size_t in) {
  const std::size_t rows = x.size() / in, out = w.size() / in;
  Doubles y(rows * out);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t o = 0; o < out; ++o) {
      y[r * out + o] = std::inner_product(&x[r * in], &x[r * in] + in, &w[o * in], 0.0);
    }
  }
  return y;
}

inline Doubles add_bias(Doubles y, const Doubles& bias) {
  for (std::size_t i = 0; i < y.size(); ++i) y[i] += bias[i % bias.size()];
  return y;
}

inline Doubles rms_norm(const Doubles& x, const Doubles& weight, double eps) {
  const std::size_t width = weight.size();
  Doubles y(x.size());
  for (std::size_t r = 0; r < x.size(); r += width) {
    const double squares = std::inner_product(&x[r], &x[r] + width, &x[r], 0.0);
    const double factor = 1 / std::sqrt(squares / static_cast<double>(width) + eps);
    for (std::size_t i = 0; i < width; ++i) y[r + i] = x[r + i] * factor * weight[i];
  }
  return y;
}

/// x [.., tokens, head_dim].
inline Doubles rope(const Doubles& x, const Doubles& inverse_frequencies, std::size_t tokens,
                    std::size_t head_dim, int offset, double magnitude) {
  Doubles y = x;
  const std::size_t n = inverse_frequencies.size();
  for (std::size_t row = 0; row < x.size() / head_dim; ++row) {
    const double position = static_cast<double>(row % tokens) + offset;
    for (std::size_t i = 0; i < n; ++i) {
      const double c = magnitude * std::cos(position * inverse_frequencies[i]);
      const double s = magnitude * std::sin(position * inverse_frequencies[i]);
      const double a = x[row * head_dim + i], b = x[row * head_dim + i + n];
      y[row * head_dim + i] = a * c - b * s;
      y[row * head_dim + i + n] = b * c + a * s;
    }
  }
  return y;
}

struct AttentionShape {
  std::size_t batch, q_heads, kv_heads, queries, keys, d, dv;
  double scale;
  int window = 0;
};

inline bool visible(const AttentionShape& s, std::size_t query, std::size_t key) {
  const std::size_t newest = s.keys - s.queries + query;
  return key <= newest && (s.window <= 0 || key + static_cast<std::size_t>(s.window) > newest);
}

/// One query's output into y[dv].
inline void attend(const AttentionShape& s, const double* q, const double* k, const double* v,
                   std::size_t query, double* y) {
  Doubles weight(s.keys, 0.0);
  double largest_score = -INFINITY, sum = 0;
  for (std::size_t key = 0; key < s.keys; ++key) {
    weight[key] = s.scale * std::inner_product(q, q + s.d, k + key * s.d, 0.0);
    if (visible(s, query, key)) largest_score = std::max(largest_score, weight[key]);
  }
  for (std::size_t key = 0; key < s.keys; ++key) {
    weight[key] = visible(s, query, key) ? std::exp(weight[key] - largest_score) : 0.0;
    sum += weight[key];
  }
  std::fill(y, y + s.dv, 0.0);
  for (std::size_t key = 0; key < s.keys; ++key) {
    for (std::size_t i = 0; i < s.dv; ++i) y[i] += weight[key] / sum * v[key * s.dv + i];
  }
}

inline Doubles attention(const AttentionShape& s, const Doubles& q, const Doubles& k, const Doubles& v) {
  Doubles y(s.batch * s.q_heads * s.queries * s.dv);
  for (std::size_t row = 0; row < s.batch * s.q_heads * s.queries; ++row) {
    const std::size_t query = row % s.queries, head = row / s.queries % s.q_heads;
    const std::size_t kv = row / s.queries / s.q_heads * s.kv_heads + head / (s.q_heads / s.kv_heads);
    attend(s, &q[row * s.d], &k[kv * s.keys * s.d], &v[kv * s.keys * s.dv], query, &y[row * s.dv]);
  }
  return y;
}

inline Doubles swiglu(const Doubles& gate, const Doubles& up) {
  Doubles y(gate.size());
  for (std::size_t i = 0; i < y.size(); ++i) y[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
  return y;
}

/// Row-wise log softmax.
inline Doubles log_softmax(const Doubles& logits, std::size_t width) {
  Doubles y(logits.size());
  for (std::size_t r = 0; r < logits.size(); r += width) {
    const double top = *std::max_element(&logits[r], &logits[r] + width);
    double sum = 0;
    for (std::size_t i = 0; i < width; ++i) sum += std::exp(logits[r + i] - top);
    for (std::size_t i = 0; i < width; ++i) y[r + i] = logits[r + i] - top - std::log(sum);
  }
  return y;
}

inline Doubles kl_divergence(const Doubles& reference, const Doubles& logits, std::size_t width) {
  const Doubles p = log_softmax(reference, width), q = log_softmax(logits, width);
  Doubles y(p.size() / width, 0.0);
  for (std::size_t i = 0; i < p.size(); ++i) y[i / width] += std::exp(p[i]) * (p[i] - q[i]);
  return y;
}

}  // namespace optiq::test::reference
