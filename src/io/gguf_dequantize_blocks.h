// One function a quantized type: a block's bytes to its elements. Layouts: optiq/io/gguf_types.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "optiq/base/half.h"

namespace optiq::io {

inline float load_f16(const std::byte* at) {
  std::uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return f16_to_f32(bits);
}

using DequantizeBlock = void (*)(const std::byte* block, float* out);

void dequantize_q4_0(const std::byte* block, float* out);
void dequantize_q4_1(const std::byte* block, float* out);
void dequantize_q5_0(const std::byte* block, float* out);
void dequantize_q5_1(const std::byte* block, float* out);
void dequantize_q8_0(const std::byte* block, float* out);

void dequantize_q2_k(const std::byte* block, float* out);
void dequantize_q3_k(const std::byte* block, float* out);
void dequantize_q4_k(const std::byte* block, float* out);
void dequantize_q5_k(const std::byte* block, float* out);
void dequantize_q6_k(const std::byte* block, float* out);

}  // namespace optiq::io
