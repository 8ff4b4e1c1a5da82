// Attention on plain f32 arrays. Shapes and visibility as in optiq/kernels/ops.h.
#pragma once

#include <cstddef>

namespace optiq::kernels::cpu {

struct AttentionShape {
  std::size_t batch, q_heads, kv_heads, queries, keys, d, dv;
  float scale;
  std::size_t window;  ///< 0: none

  /// Keys [first, last) are what query t sees.
  [[nodiscard]] std::size_t last_key(std::size_t query) const { return keys - queries + query + 1; }
  [[nodiscard]] std::size_t first_key(std::size_t query) const {
    const std::size_t last = last_key(query);
    return window > 0 && last > window ? last - window : 0;
  }
  [[nodiscard]] std::size_t group() const { return q_heads / kv_heads; }
};

/// y [batch, q_heads, queries, dv]. A thread holds one tile of at most 128 queries' scores.
void attention_forward(const AttentionShape& shape, const float* q, const float* k, const float* v, float* y);

/// dq, dk, dv from dy; probabilities are recomputed. dk and dv are summed over a group's heads in their
/// order. Working memory: dk and dv of every query head.
void attention_backward(const AttentionShape& shape, const float* q, const float* k, const float* v,
                        const float* dy, float* dq, float* dk, float* dv);

}  // namespace optiq::kernels::cpu
