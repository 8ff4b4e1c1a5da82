#include "packed_cache.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "isa.h"
#include "optiq/base/half.h"
#include "scratch.h"

namespace optiq::kernels::cpu {
namespace {

constexpr std::size_t kHalf = sizeof(std::uint16_t);

/// One step of a tile.
using Levels = std::array<std::uint8_t, kCacheBlock>;

std::size_t bits_of(CacheStorage storage) {
  return static_cast<std::size_t>(packed_bits(storage));
}

struct GroupRange {
  std::uint16_t scale, bias;  ///< f16
};

/// From the least to the largest of n values, as f16 can say it.
GroupRange range_of(const float* x, std::size_t n, std::size_t bits) {
  float least = x[0], largest = x[0];
  bool is_number = true;
  for (std::size_t i = 0; i < n; ++i) {
    least = std::min(least, x[i]);
    largest = std::max(largest, x[i]);
    is_number = is_number && !std::isnan(x[i]);
  }
  if (!is_number) return {f32_to_f16(std::numeric_limits<float>::quiet_NaN()), 0};
  const std::uint16_t bias = f32_to_f16(least);
  const auto levels = static_cast<float>((1 << bits) - 1);
  return {f32_to_f16(std::max(0.0f, largest - f16_to_f32(bias)) / levels), bias};
}

/// Levels of up to kCacheBlock values; 0 where the scale is 0 or no number, and behind them.
Levels quantize(const float* x, std::size_t n, GroupRange range, std::size_t bits) {
  const float scale = f16_to_f32(range.scale), bias = f16_to_f32(range.bias);
  const auto levels = static_cast<float>((1 << bits) - 1);
  Levels q{};
  if (!(scale > 0)) return q;
  for (std::size_t i = 0; i < std::min(n, kCacheBlock); ++i)
    q[i] = static_cast<std::uint8_t>(std::clamp((x[i] - bias) / scale, 0.0f, levels) + 0.5f);
  return q;
}

/// What one step of a tile's lanes has in a plane of `bits` bits; the plane was zero.
void put_fields(std::byte* plane, std::size_t bits, std::size_t step, const Levels& q, std::size_t low) {
  const QuadPlace place = quad_place(bits, step / kQuadSteps);
  const std::size_t mask = (1u << bits) - 1;
  std::byte* at = plane + place.byte + step % kQuadSteps;
  for (std::size_t lane = 0; lane < kCacheBlock; ++lane)
    at[lane * kQuadSteps] |= static_cast<std::byte>((q[lane] >> low & mask) << place.shift);
}

void add_fields(const std::byte* plane, std::size_t bits, std::size_t step, std::size_t low, Levels& q) {
  const QuadPlace place = quad_place(bits, step / kQuadSteps);
  const std::size_t mask = (1u << bits) - 1;
  const std::byte* at = plane + place.byte + step % kQuadSteps;
  for (std::size_t lane = 0; lane < kCacheBlock; ++lane) {
    const std::size_t field = std::to_integer<std::size_t>(at[lane * kQuadSteps]) >> place.shift & mask;
    q[lane] = static_cast<std::uint8_t>(q[lane] | field << low);
  }
}

/// Writes one step; the tile was zero.
void put_step(std::byte* tile, std::size_t bits, std::size_t step, const Levels& q) {
  const std::size_t first = first_plane_bits(bits);
  put_fields(tile, first, step, q, 0);
  if (bits > first) put_fields(tile + tile_bytes(first), bits - first, step, q, first);
}

Levels step_of(const std::byte* tile, std::size_t bits, std::size_t step) {
  const std::size_t first = first_plane_bits(bits);
  Levels q{};
  add_fields(tile, first, step, 0, q);
  if (bits > first) add_fields(tile + tile_bytes(first), bits - first, step, first, q);
  return q;
}

void put_half(std::byte* at, std::size_t index, std::uint16_t value) {
  std::memcpy(at + index * kHalf, &value, kHalf);
}

float half_at(const std::byte* at, std::size_t index) {
  std::uint16_t bits;
  std::memcpy(&bits, at + index * kHalf, kHalf);
  return f16_to_f32(bits);
}

/// Within f16's finite range, as everything that waits to be packed.
std::uint16_t finite_half(float x) {
  constexpr float kLargest = 65504;
  return f32_to_f16(std::clamp(x, -kLargest, kLargest));
}

std::size_t chunk_f16_bytes(std::size_t head_dim) {
  return kCacheChunk * head_dim * kHalf;
}

}  // namespace

PackedLayout::PackedLayout(CacheFormat format, std::size_t head_dim)
    : keys(chunk_f16_bytes(head_dim)),
      values(keys),
      key_scales(kCacheChunk / kCacheBlock * (round_up(head_dim, kCacheSteps) / kCacheSteps) *
                 tile_bytes(bits_of(format.keys))),
      key_biases(key_scales + head_dim * kHalf),
      value_scales(round_up(head_dim, kCacheBlock) / kCacheBlock * kValueTiles *
                   tile_bytes(bits_of(format.values))),
      value_group(2 * kCacheChunk * kHalf),
      groups((head_dim + kCacheGroup - 1) / kCacheGroup) {
  if (packed_bits(format.keys) > 0) keys = key_biases + head_dim * kHalf;
  if (packed_bits(format.values) > 0) values = value_scales + groups * value_group;
}

void pack_keys(CacheStorage storage, const std::byte* from, std::size_t head_dim, std::byte* chunk) {
  const std::size_t bits = bits_of(storage);
  if (bits == 0) {
    std::memcpy(chunk, from, chunk_f16_bytes(head_dim));
    return;
  }
  const PackedLayout layout(storage, head_dim);
  std::fill_n(chunk, layout.keys, std::byte{});
  float* wide = scratch<float>(Slot::weights, kCacheChunk * head_dim);
  kernels().widen(Storage::f16, from, kCacheChunk * head_dim, wide);
  const std::size_t tiles = round_up(head_dim, kCacheSteps) / kCacheSteps;
  std::array<float, kCacheChunk> channel;
  for (std::size_t j = 0; j < head_dim; ++j) {
    for (std::size_t b = 0; b < kCacheChunk / kCacheBlock; ++b)
      std::copy_n(wide + (b * head_dim + j) * kCacheBlock, kCacheBlock, &channel[b * kCacheBlock]);
    const GroupRange range = range_of(channel.data(), kCacheChunk, bits);
    put_half(chunk + layout.key_scales, j, range.scale);
    put_half(chunk + layout.key_biases, j, range.bias);
    for (std::size_t b = 0; b < kCacheChunk / kCacheBlock; ++b)
      put_step(chunk + (b * tiles + j / kCacheSteps) * tile_bytes(bits), bits, j % kCacheSteps,
               quantize(&channel[b * kCacheBlock], kCacheBlock, range, bits));
  }
}

void pack_values(CacheStorage storage, const std::byte* from, std::size_t head_dim, std::byte* chunk) {
  const std::size_t bits = bits_of(storage);
  if (bits == 0) {
    std::memcpy(chunk, from, chunk_f16_bytes(head_dim));
    return;
  }
  const PackedLayout layout(storage, head_dim);
  std::fill_n(chunk, layout.values, std::byte{});
  float* wide = scratch<float>(Slot::weights, kCacheChunk * head_dim);
  kernels().widen(Storage::f16, from, kCacheChunk * head_dim, wide);
  for (std::size_t token = 0; token < kCacheChunk; ++token) {
    for (std::size_t g = 0; g < layout.groups; ++g) {
      const std::size_t first = g * kCacheGroup, n = std::min(kCacheGroup, head_dim - first);
      const float* x = wide + token * head_dim + first;
      const GroupRange range = range_of(x, n, bits);
      std::byte* scales = chunk + layout.value_scales + g * layout.value_group;
      put_half(scales, token, range.scale);
      put_half(scales, kCacheChunk + token, range.bias);
      for (std::size_t c = 0; c < n; c += kCacheBlock) {
        const std::size_t tile = (first + c) / kCacheBlock * kValueTiles + token / kCacheSteps;
        put_step(chunk + tile * tile_bytes(bits), bits, token % kCacheSteps,
                 quantize(x + c, n - c, range, bits));
      }
    }
  }
}

void unpack_keys(CacheStorage storage, const std::byte* chunk, std::size_t head_dim, std::byte* to) {
  const std::size_t bits = bits_of(storage);
  if (bits == 0) {
    std::memcpy(to, chunk, chunk_f16_bytes(head_dim));
    return;
  }
  const PackedLayout layout(storage, head_dim);
  const std::size_t tiles = round_up(head_dim, kCacheSteps) / kCacheSteps;
  for (std::size_t j = 0; j < head_dim; ++j) {
    const float scale = half_at(chunk + layout.key_scales, j), bias = half_at(chunk + layout.key_biases, j);
    for (std::size_t b = 0; b < kCacheChunk / kCacheBlock; ++b) {
      const std::byte* tile = chunk + (b * tiles + j / kCacheSteps) * tile_bytes(bits);
      const Levels q = step_of(tile, bits, j % kCacheSteps);
      for (std::size_t lane = 0; lane < kCacheBlock; ++lane)
        put_half(to, (b * head_dim + j) * kCacheBlock + lane, finite_half(q[lane] * scale + bias));
    }
  }
}

void unpack_values(CacheStorage storage, const std::byte* chunk, std::size_t head_dim, std::byte* to) {
  const std::size_t bits = bits_of(storage);
  if (bits == 0) {
    std::memcpy(to, chunk, chunk_f16_bytes(head_dim));
    return;
  }
  const PackedLayout layout(storage, head_dim);
  for (std::size_t token = 0; token < kCacheChunk; ++token) {
    for (std::size_t c = 0; c < head_dim; c += kCacheBlock) {
      const std::byte* scales = chunk + layout.value_scales + c / kCacheGroup * layout.value_group;
      const float scale = half_at(scales, token), bias = half_at(scales, kCacheChunk + token);
      const std::size_t tile = c / kCacheBlock * kValueTiles + token / kCacheSteps;
      const Levels q = step_of(chunk + tile * tile_bytes(bits), bits, token % kCacheSteps);
      for (std::size_t lane = 0; lane < std::min(kCacheBlock, head_dim - c); ++lane)
        put_half(to, token * head_dim + c + lane, finite_half(q[lane] * scale + bias));
    }
  }
}

}  // namespace optiq::kernels::cpu
