// The operations a decoder is made of, over mlx::core::array. On a CPU stream each is our own MLX primitive
// (threaded, vectorised, with its vjp where training-like passes need one); on a GPU stream each is a
// composition of MLX's own operations. Activations are f32 on CPU; on a GPU they keep the dtype they come in.
// All throw std::invalid_argument on wrong shapes or dtypes, as MLX does: `<op>: <argument>: expected …, got
// …`. Work happens when an array is evaluated.
#pragma once

#include <mlx/mlx.h>

#include <optional>

#include "optiq/kernels/compute.h"

namespace optiq::kernels {

namespace mx = mlx::core;

/// One quantized matrix on the device: quant/format.h's three tensors.
struct QuantizedWeight {
  mx::array weight;  ///< u32 [out, in·bits/32]
  mx::array scales;  ///< f32|f16|bf16 [out, in/group_size]
  mx::array biases;  ///< as scales
  int bits = 4;
  int group_size = 64;
};

/// y = x·Wᵀ (+ bias). x [..., in] f32; weight [out, in] f32|f16|bf16, kept in that dtype (no f32 copy of it
/// is held); bias [out] any float dtype. vjp with respect to x and weight (dW is f32 [out, in]) and bias.
mx::array linear(const mx::array& x, const mx::array& weight,
                 const std::optional<mx::array>& bias = std::nullopt, Compute compute = Compute::f32);

/// y = x·dequantize(W)ᵀ (+ bias), accumulated in f32; exact up to f32 rounding unless `compute` is int8 (CPU
/// only: a GPU ignores it). vjp with respect to x, always exact.
mx::array quantized_linear(const mx::array& x, const QuantizedWeight& weight,
                           const std::optional<mx::array>& bias = std::nullopt,
                           Compute compute = Compute::f32);

/// Rows of a table. tokens i32 [...] → f32 [..., width]. vjp with respect to the dense table (f32).
mx::array embedding(const mx::array& tokens, const mx::array& table);
mx::array quantized_embedding(const mx::array& tokens, const QuantizedWeight& table);

/// The matrix itself, q·s + b in f32 → [out, in]. vjp with respect to scales and biases, where these are f32:
/// Σ of the group's dW·q, and of its dW.
mx::array dequantize(const QuantizedWeight& weight);

/// x / sqrt(mean(x², last axis) + eps) · weight. weight [width]. vjp with respect to x and weight.
mx::array rms_norm(const mx::array& x, const mx::array& weight, float eps);

/// Rotary embedding, "rotate half" layout: pairs (i, i + n) for i < n = inverse_frequencies.size(); channels
/// ≥ 2n pass through. x [batch, heads, tokens, head_dim]; position of token t is offset + t; angle = position
/// · inverse_frequencies[i] (f32 [n]); cos and sin are multiplied by `magnitude` (YaRN-like scalings). vjp
/// wrt x.
mx::array rope(const mx::array& x, const mx::array& inverse_frequencies, int offset, float magnitude = 1.0f);

/// Causal softmax(q·kᵀ·scale)·v with grouped queries. q [batch, q_heads, T, d], k [batch, kv_heads, S, d],
/// v [batch, kv_heads, S, dv], S ≥ T; query t sees keys s with s ≤ S − T + t and, if window > 0,
/// s > S − T + t − window. vjp with respect to q, k, v.
mx::array attention(const mx::array& q, const mx::array& k, const mx::array& v, float scale, int window = 0);

/// silu(gate) · up. vjp with respect to both.
mx::array swiglu(const mx::array& gate, const mx::array& up);

/// log softmax(logits)[label] of each row. logits [rows, vocabulary], labels i32 [rows] → f32 [rows]. vjp wrt
/// logits. Sums are compensated or in double, so that KL and PPL of long rows keep full f32 accuracy.
mx::array label_log_probabilities(const mx::array& logits, const mx::array& labels);

/// One draw from softmax(logits) of each row by inverse transform: uniforms f32 [rows] in [0, 1) → i32
/// [rows].
mx::array sample_rows(const mx::array& logits, const mx::array& uniforms);

/// KL(softmax(reference) ‖ softmax(logits)) of each row, in nats; both [rows, vocabulary] → f32 [rows], ≥ 0.
mx::array kl_divergence(const mx::array& reference, const mx::array& logits);

/// What is kept of a row of reference logits: its most probable tokens, and what all others have together.
struct TopProbabilities {
  mx::array tokens;             ///< i32 [rows, count], in no particular order
  mx::array log_probabilities;  ///< f32 [rows, count]
  mx::array log_tail;           ///< f32 [rows]: log(1 − Σ of the kept), at least log(1e-9)
};
/// 1 ≤ count < vocabulary.
TopProbabilities top_probabilities(const mx::array& logits, int count);

/// KL of each row with all other tokens taken as one: Σ p·log(p/q) over the kept tokens and the tail, in
/// nats; a lower bound of kl_divergence. logits [rows, vocabulary] → f32 [rows]. vjp with respect to logits.
mx::array top_divergence(const TopProbabilities& reference, const mx::array& logits);

/// xᵀ·x over all rows of x [..., n] → f32 [n, n], exactly symmetric. Unless `compute` is f32 the rows are
/// rounded to bf16 first, as `linear` sees them (CPU only: a GPU ignores it).
mx::array gram(const mx::array& x, Compute compute = Compute::f32);

}  // namespace optiq::kernels
