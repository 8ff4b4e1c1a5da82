// bfloat16 and IEEE binary16 as stored bits, and their exact conversions to and from float.
#pragma once

#include <bit>
#include <cstdint>

namespace optiq {

/// Upper 16 bits of an IEEE binary32.
inline float bf16_to_f32(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

/// Round to nearest, ties to even; a NaN stays a (quiet) NaN.
inline std::uint16_t f32_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// IEEE binary16 to binary32, subnormals, infinities and NaN included.
float f16_to_f32(std::uint16_t bits);

/// Round to nearest, ties to even; overflow becomes infinity.
std::uint16_t f32_to_f16(float value);

}  // namespace optiq
