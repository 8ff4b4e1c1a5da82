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

struct GroupRange {
  std::uint16_t scale, bias;  ///< f16
};

/// From the least to the largest of n values, as f16 can say it.
GroupRange range_of(const float* x, std::size_t n, int bits) {
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

/// Levels of n values; 0 where the scale is 0 or no number.
void quantize(const float* x, std::size_t n, GroupRange range, int bits, std::uint32_t* q) {
  const float scale = f16_to_f32(range.scale), bias = f16_to_f32(range.bias);
  const auto levels = static_cast<float>((1 << bits) - 1);
  std::fill_n(q, n, 0u);
  if (!(scale > 0)) return;
  for (std::size_t i = 0; i < n; ++i)
    q[i] = static_cast<std::uint32_t>(std::clamp((x[i] - bias) / scale, 0.0f, levels) + 0.5f);
}

/// Writes one step of a tile's lanes; the tile was zero.
void put_step(std::byte* tile, std::size_t step, const std::uint32_t* q, int bits) {
  const std::size_t bit = step * static_cast<std::size_t>(bits), word = bit / 32, offset = bit % 32;
  const bool straddles = offset + static_cast<std::size_t>(bits) > 32;
  std::array<std::uint32_t, 2 * kCacheBlock> words;
  const std::size_t bytes = (straddles ? 2 : 1) * kCacheBlock * sizeof(std::uint32_t);
  std::byte* at = tile + word * kCacheBlock * sizeof(std::uint32_t);
  std::memcpy(words.data(), at, bytes);
  for (std::size_t lane = 0; lane < kCacheBlock; ++lane) {
    words[lane] |= q[lane] << offset;
    if (straddles) words[kCacheBlock + lane] |= q[lane] >> (32 - offset);
  }
  std::memcpy(at, words.data(), bytes);
}

std::size_t tile_bytes(int bits) {
  return tile_words(bits) * sizeof(std::uint32_t);
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
                 tile_bytes(packed_bits(format.keys))),
      key_biases(key_scales + head_dim * kHalf),
      value_scales(kCacheChunk / kCacheSteps * (round_up(head_dim, kCacheBlock) / kCacheBlock) *
                   tile_bytes(packed_bits(format.values))),
      value_group(2 * kCacheChunk * kHalf),
      groups((head_dim + kCacheGroup - 1) / kCacheGroup) {
  if (packed_bits(format.keys) > 0) keys = key_biases + head_dim * kHalf;
  if (packed_bits(format.values) > 0) values = value_scales + groups * value_group;
}

void pack_keys(CacheStorage storage, const std::byte* from, std::size_t head_dim, std::byte* chunk) {
  const int bits = packed_bits(storage);
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
  std::array<std::uint32_t, kCacheChunk> q;
  for (std::size_t j = 0; j < head_dim; ++j) {
    for (std::size_t b = 0; b < kCacheChunk / kCacheBlock; ++b)
      std::copy_n(wide + (b * head_dim + j) * kCacheBlock, kCacheBlock, &channel[b * kCacheBlock]);
    const GroupRange range = range_of(channel.data(), kCacheChunk, bits);
    put_half(chunk + layout.key_scales, j, range.scale);
    put_half(chunk + layout.key_biases, j, range.bias);
    quantize(channel.data(), kCacheChunk, range, bits, q.data());
    for (std::size_t b = 0; b < kCacheChunk / kCacheBlock; ++b)
      put_step(chunk + (b * tiles + j / kCacheSteps) * tile_bytes(bits), j % kCacheSteps, &q[b * kCacheBlock],
               bits);
  }
}

void pack_values(CacheStorage storage, const std::byte* from, std::size_t head_dim, std::byte* chunk) {
  const int bits = packed_bits(storage);
  if (bits == 0) {
    std::memcpy(chunk, from, chunk_f16_bytes(head_dim));
    return;
  }
  const PackedLayout layout(storage, head_dim);
  std::fill_n(chunk, layout.values, std::byte{});
  float* wide = scratch<float>(Slot::weights, kCacheChunk * head_dim);
  kernels().widen(Storage::f16, from, kCacheChunk * head_dim, wide);
  const std::size_t tiles = round_up(head_dim, kCacheBlock) / kCacheBlock;
  std::array<std::uint32_t, kCacheGroup> q;
  for (std::size_t token = 0; token < kCacheChunk; ++token) {
    for (std::size_t g = 0; g < layout.groups; ++g) {
      const std::size_t first = g * kCacheGroup, n = std::min(kCacheGroup, head_dim - first);
      const float* x = wide + token * head_dim + first;
      const GroupRange range = range_of(x, n, bits);
      std::byte* scales = chunk + layout.value_scales + g * layout.value_group;
      put_half(scales, token, range.scale);
      put_half(scales, kCacheChunk + token, range.bias);
      q.fill(0);
      quantize(x, n, range, bits, q.data());
      for (std::size_t c = 0; c < n; c += kCacheBlock)
        put_step(chunk + (token / kCacheSteps * tiles + (first + c) / kCacheBlock) * tile_bytes(bits),
                 token % kCacheSteps, &q[c], bits);
    }
  }
}

void unpack_keys(CacheStorage storage, const std::byte* chunk, std::size_t head_dim, std::byte* to) {
  const int bits = packed_bits(storage);
  if (bits == 0) {
    std::memcpy(to, chunk, chunk_f16_bytes(head_dim));
    return;
  }
  const PackedLayout layout(storage, head_dim);
  const std::size_t tiles = round_up(head_dim, kCacheSteps) / kCacheSteps;
  std::array<float, kCacheSteps * kCacheBlock> tile;
  for (std::size_t i = 0; i < kCacheChunk / kCacheBlock * tiles; ++i) {
    kernels().cache_unpack(bits, chunk + i * tile_bytes(bits), tile.data(), kCacheBlock);
    const std::size_t first = i % tiles * kCacheSteps;
    for (std::size_t j = first; j < std::min(first + kCacheSteps, head_dim); ++j) {
      const float scale = half_at(chunk + layout.key_scales, j), bias = half_at(chunk + layout.key_biases, j);
      for (std::size_t lane = 0; lane < kCacheBlock; ++lane)
        put_half(to, (i / tiles * head_dim + j) * kCacheBlock + lane,
                 finite_half(tile[(j - first) * kCacheBlock + lane] * scale + bias));
    }
  }
}

void unpack_values(CacheStorage storage, const std::byte* chunk, std::size_t head_dim, std::byte* to) {
  const int bits = packed_bits(storage);
  if (bits == 0) {
    std::memcpy(to, chunk, chunk_f16_bytes(head_dim));
    return;
  }
  const PackedLayout layout(storage, head_dim);
  const std::size_t tiles = round_up(head_dim, kCacheBlock) / kCacheBlock;
  std::array<float, kCacheSteps * kCacheBlock> tile;
  for (std::size_t i = 0; i < kCacheChunk / kCacheSteps * tiles; ++i) {
    kernels().cache_unpack(bits, chunk + i * tile_bytes(bits), tile.data(), kCacheBlock);
    const std::size_t first = i % tiles * kCacheBlock, n = std::min(kCacheBlock, head_dim - first);
    const std::byte* scales = chunk + layout.value_scales + first / kCacheGroup * layout.value_group;
    for (std::size_t step = 0; step < kCacheSteps; ++step) {
      const std::size_t token = i / tiles * kCacheSteps + step;
      const float scale = half_at(scales, token), bias = half_at(scales, kCacheChunk + token);
      for (std::size_t c = 0; c < n; ++c)
        put_half(to, token * head_dim + first + c, finite_half(tile[step * kCacheBlock + c] * scale + bias));
    }
  }
}

}  // namespace optiq::kernels::cpu
