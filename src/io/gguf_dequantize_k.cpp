// The types of 256 elements a block ("K-quants"). As in gguf_dequantize_simple.cpp, a product and a
// difference are separate statements, so that no compiler fuses them.
#include <cstdint>

#include "gguf_dequantize_blocks.h"

namespace optiq::io {
namespace {

constexpr int kBlock = 256;

unsigned u8(std::byte byte) {
  return std::to_integer<unsigned>(byte);
}

/// Where element i lies in a plane of 32-byte lanes: the byte, and which of the planes' fields in it.
struct Place {
  int half;   ///< 0 or 1: which 128 elements
  int field;  ///< 0 to 3: which 32 of those
  int lane;   ///< 0 to 31
};

Place place(int i) {
  return {i / 128, i / 32 % 4, i % 32};
}

/// The two bits of element i in a plane of 64 bytes.
unsigned two_bits(const std::byte* plane, Place at) {
  return u8(plane[32 * at.half + at.lane]) >> (2 * at.field) & 3u;
}

/// The four bits of element i in a plane of 128 bytes, whose 32-byte lanes hold 64 elements.
unsigned four_bits(const std::byte* plane, int i) {
  return u8(plane[32 * (i / 64) + i % 32]) >> (i % 64 < 32 ? 0 : 4) & 0xfu;
}

struct ScaleAndMinimum {
  float scale;
  float minimum;
};

/// Group g (0 to 7) of the 12 bytes of six-bit scales and minima.
ScaleAndMinimum six_bits(const std::byte* scales, int g) {
  if (g < 4) return {static_cast<float>(u8(scales[g]) & 63u), static_cast<float>(u8(scales[g + 4]) & 63u)};
  const unsigned low = u8(scales[g + 4]);
  return {static_cast<float>((low & 0xfu) | (u8(scales[g - 4]) >> 6) << 4),
          static_cast<float>((low >> 4) | (u8(scales[g]) >> 6) << 4)};
}

/// Group g (0 to 15) of the 12 bytes of Q3_K's six-bit scales, less their offset of 32.
int q3_scale(const std::byte* scales, int g) {
  const unsigned low = u8(scales[g % 8]) >> (g < 8 ? 0 : 4) & 0xfu;
  const unsigned high = u8(scales[8 + g % 4]) >> (2 * (g / 4)) & 3u;
  return static_cast<int>(low | high << 4) - 32;
}

}  // namespace

void dequantize_q2_k(const std::byte* block, float* out) {
  const float d = load_f16(block + 80);
  const float dmin = load_f16(block + 82);
  for (int i = 0; i < kBlock; ++i) {
    const unsigned packed = u8(block[i / 16]);
    const float scale = d * static_cast<float>(packed & 0xfu);
    const float minimum = dmin * static_cast<float>(packed >> 4);
    const float product = scale * static_cast<float>(two_bits(block + 16, place(i)));
    out[i] = product - minimum;
  }
}

void dequantize_q3_k(const std::byte* block, float* out) {
  const float d = load_f16(block + 108);
  for (int i = 0; i < kBlock; ++i) {
    const Place at = place(i);
    const unsigned high = u8(block[at.lane]) >> (4 * at.half + at.field) & 1u;
    const int q = static_cast<int>(two_bits(block + 32, at) | high << 2) - 4;
    const float scale = d * static_cast<float>(q3_scale(block + 96, i / 16));
    out[i] = scale * static_cast<float>(q);
  }
}

void dequantize_q4_k(const std::byte* block, float* out) {
  const float d = load_f16(block);
  const float dmin = load_f16(block + 2);
  for (int g = 0; g < 8; ++g) {
    const ScaleAndMinimum packed = six_bits(block + 4, g);
    const float scale = d * packed.scale;
    const float minimum = dmin * packed.minimum;
    for (int i = 32 * g; i < 32 * g + 32; ++i) {
      const float product = scale * static_cast<float>(four_bits(block + 16, i));
      out[i] = product - minimum;
    }
  }
}

void dequantize_q5_k(const std::byte* block, float* out) {
  const float d = load_f16(block);
  const float dmin = load_f16(block + 2);
  for (int g = 0; g < 8; ++g) {
    const ScaleAndMinimum packed = six_bits(block + 4, g);
    const float scale = d * packed.scale;
    const float minimum = dmin * packed.minimum;
    for (int i = 32 * g; i < 32 * g + 32; ++i) {
      const unsigned high = u8(block[16 + i % 32]) >> g & 1u;
      const float product = scale * static_cast<float>(four_bits(block + 48, i) | high << 4);
      out[i] = product - minimum;
    }
  }
}

void dequantize_q6_k(const std::byte* block, float* out) {
  const float d = load_f16(block + 208);
  for (int i = 0; i < kBlock; ++i) {
    const Place at = place(i);
    const unsigned byte = u8(block[64 * at.half + 32 * (at.field % 2) + at.lane]);
    const unsigned low = byte >> (4 * (at.field / 2)) & 0xfu;
    const int q = static_cast<int>(low | two_bits(block + 128, at) << 4) - 32;
    const float scale = d * static_cast<float>(std::to_integer<std::int8_t>(block[192 + i / 16]));
    out[i] = scale * static_cast<float>(q);
  }
}

}  // namespace optiq::io
