// Arrays of f32, f16 or bf16 as they lie in files (little-endian, perhaps unaligned), to and from f32.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>

#include "optiq/base/dtype.h"
#include "optiq/base/half.h"

namespace optiq::quant {

template <class Convert>
void load_halves(const std::byte* bytes, std::span<float> values, Convert convert) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::uint16_t half = 0;
    std::memcpy(&half, bytes + 2 * i, sizeof half);
    values[i] = convert(half);
  }
}

/// values.size() elements of `dtype` from `bytes`.
inline void load_floats(const std::byte* bytes, DType dtype, std::span<float> values) {
  if (dtype == DType::bf16) {
    load_halves(bytes, values, bf16_to_f32);
  } else if (dtype == DType::f16) {
    load_halves(bytes, values, f16_to_f32);
  } else {
    std::memcpy(values.data(), bytes, values.size_bytes());
  }
}

/// Rounds `value` to `dtype` and stores it.
inline void store_float(float value, DType dtype, std::byte* bytes) {
  if (dtype == DType::f32) {
    std::memcpy(bytes, &value, sizeof value);
    return;
  }
  const std::uint16_t half = dtype == DType::bf16 ? f32_to_bf16(value) : f32_to_f16(value);
  std::memcpy(bytes, &half, sizeof half);
}

}  // namespace optiq::quant
