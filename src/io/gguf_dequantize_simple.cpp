// The types of 32 elements a block. A product and a sum are separate statements throughout, because a
// compiler may fuse them within one expression, which would round once instead of twice.
#include <cstdint>
#include <cstring>

#include "gguf_dequantize_blocks.h"

namespace optiq::io {
namespace {

constexpr int kHalf = 16;

/// The four bits of element i (0 to 31): low nibbles first, then high ones.
unsigned nibble(const std::byte* qs, int i) {
  const auto byte = std::to_integer<unsigned>(qs[i % kHalf]);
  return i < kHalf ? byte & 0xfu : byte >> 4;
}

/// nibble() with bit i of the u32 at `qh` above it.
unsigned five_bits(const std::byte* qs, const std::byte* qh, int i) {
  std::uint32_t high;
  std::memcpy(&high, qh, sizeof high);
  return nibble(qs, i) | ((high >> i & 1u) << 4);
}

}  // namespace

void dequantize_q4_0(const std::byte* block, float* out) {
  const float d = load_f16(block);
  for (int i = 0; i < 2 * kHalf; ++i)
    out[i] = d * static_cast<float>(static_cast<int>(nibble(block + 2, i)) - 8);
}

void dequantize_q4_1(const std::byte* block, float* out) {
  const float d = load_f16(block);
  const float m = load_f16(block + 2);
  for (int i = 0; i < 2 * kHalf; ++i) {
    const float product = d * static_cast<float>(nibble(block + 4, i));
    out[i] = product + m;
  }
}

void dequantize_q5_0(const std::byte* block, float* out) {
  const float d = load_f16(block);
  for (int i = 0; i < 2 * kHalf; ++i)
    out[i] = d * static_cast<float>(static_cast<int>(five_bits(block + 6, block + 2, i)) - 16);
}

void dequantize_q5_1(const std::byte* block, float* out) {
  const float d = load_f16(block);
  const float m = load_f16(block + 2);
  for (int i = 0; i < 2 * kHalf; ++i) {
    const float product = d * static_cast<float>(five_bits(block + 8, block + 4, i));
    out[i] = product + m;
  }
}

void dequantize_q8_0(const std::byte* block, float* out) {
  const float d = load_f16(block);
  for (int i = 0; i < 2 * kHalf; ++i)
    out[i] = static_cast<float>(std::to_integer<std::int8_t>(block[2 + i])) * d;
}

}  // namespace optiq::io
