// Every operation as our own CPU primitive; semantics in optiq/kernels/ops.h. Arguments are already checked
// (ops/*.cpp).
#pragma once

#include "optiq/kernels/ops.h"

namespace optiq::kernels::cpu {

mx::array linear(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias,
                 Compute compute);
mx::array quantized_linear(const mx::array& x, const QuantizedWeight& weight,
                           const std::optional<mx::array>& bias, Compute compute);
mx::array embedding(const mx::array& tokens, const mx::array& table);
mx::array quantized_embedding(const mx::array& tokens, const QuantizedWeight& table);
mx::array dequantize(const QuantizedWeight& weight);
mx::array rms_norm(const mx::array& x, const mx::array& weight, float eps);
mx::array rope(const mx::array& x, const mx::array& inverse_frequencies, int offset, float magnitude);
mx::array attention(const mx::array& q, const mx::array& k, const mx::array& v, float scale, int window);
mx::array swiglu(const mx::array& gate, const mx::array& up);
mx::array label_log_probabilities(const mx::array& logits, const mx::array& labels);
mx::array sample_rows(const mx::array& logits, const mx::array& uniforms);
mx::array kl_divergence(const mx::array& reference, const mx::array& logits);
TopProbabilities top_probabilities(const mx::array& logits, int count);
mx::array top_divergence(const TopProbabilities& reference, const mx::array& logits);
mx::array gram(const mx::array& x, Compute compute);

}  // namespace optiq::kernels::cpu
