// What the encoders share: one group of consecutive weights of a row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "optiq/base/dtype.h"
#include "optiq/base/half.h"

namespace optiq::quant {

/// w ≈ q·scale + bias.
struct Affine {
  float scale = 0;
  float bias = 0;
};

/// `value` rounded to `dtype` (f32, f16 or bf16), as f32.
inline float round_to(DType dtype, float value) {
  if (dtype == DType::bf16) return bf16_to_f32(f32_to_bf16(value));
  if (dtype == DType::f16) return f16_to_f32(f32_to_f16(value));
  return value;
}

inline Affine round_to(DType dtype, Affine affine) {
  return {round_to(dtype, affine.scale), round_to(dtype, affine.bias)};
}

/// q = clip(rint((w − bias)/scale), 0, 2^bits − 1), ties to even; a quotient that is no number gives 0.
void quantize_group(std::span<const float> weights, Affine affine, int bits, std::span<std::uint8_t> q);

/// MLX's choice of scale and bias (docs/formats.md, "Scales and biases"), before they are rounded to the
/// scales' dtype.
Affine rtn_affine(std::span<const float> weights, int bits);

/// Encodes one group by rtn: q from the unrounded scale and bias, as MLX does. Returns the stored pair.
Affine encode_group_rtn(std::span<const float> weights, int bits, DType scales_dtype,
                        std::span<std::uint8_t> q);

/// Encodes one group by range search. `importance` has one entry a weight. Returns the stored pair.
Affine encode_group_range(std::span<const float> weights, std::span<const float> importance, int bits,
                          DType scales_dtype, std::span<std::uint8_t> q);

}  // namespace optiq::quant
