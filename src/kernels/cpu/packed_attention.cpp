#include "packed_attention.h"

#include <algorithm>

#include "isa.h"
#include "scratch.h"

namespace optiq::kernels::cpu {
namespace {

/// What a chunk's tiles meet: scales and middles of `count` steps, and rows in digits.
struct Scaled {
  int bits;
  PackedSteps steps;
  float *scales, *middles;
  CacheRows rows;

  /// Scales and middles of steps that are not there stay 0.
  Scaled(int width, std::size_t count, std::size_t row_count) : bits(width) {
    const std::size_t digits = row_count * 2 * round_up(count, kDigitSteps);
    rows.digits = scratch<std::int8_t>(Slot::narrow_a, digits);
    rows.rows = row_count;
    scales = scratch<float>(Slot::group_values, 2 * (count + row_count));
    middles = scales + count;
    rows.scales = middles + count;
    rows.offsets = rows.scales + row_count;
    std::fill_n(scales, 2 * count, 0.0f);
    steps = {scales, middles, count, 0.5f * static_cast<float>((1 << bits) - 1)};
  }

  /// x: [rows][steps], `stride` floats apart; n scales and as many biases in f16.
  void set(const std::byte* f16_scales, const std::byte* f16_biases, std::size_t n, const float* x,
           std::size_t stride) const {
    kernels().widen(Storage::f16, f16_scales, n, scales);
    kernels().widen(Storage::f16, f16_biases, n, middles);
    kernels().add_scaled(steps.middle, scales, n, middles);
    kernels().cache_digits(x, stride, steps, rows);
  }
  /// ahead: PackedBlocks, from the chunk on.
  void add(const std::byte* tiles, std::size_t blocks, const std::byte* ahead, float* y,
           std::size_t y_stride) const {
    kernels().cache_dots({bits, blocks, steps.count, tiles, ahead}, rows, y, y_stride);
  }
};

/// Asks for memory that will be needed soon.
void ask_for(const std::byte* p, std::size_t bytes) {
  constexpr std::size_t kLine = 64;
  for (std::size_t i = 0; i < bytes; i += kLine) __builtin_prefetch(p + i);
}

}  // namespace

void packed_scores(const CacheSegment& segment, std::size_t head_dim, std::size_t n, const float* q,
                   std::size_t rows, float* scores) {
  const PackedLayout layout(segment.format, head_dim);
  const std::size_t width = round_up(head_dim, kCacheSteps);
  const Scaled scaled(packed_bits(segment.format.keys), width, rows);
  for (std::size_t r = 0; r < rows; ++r)
    std::fill_n(scores + r * kCachePage, round_up(n, kCacheChunk), 0.0f);
  for (std::size_t first = 0; first < n; first += kCacheChunk) {
    const std::byte* chunk = segment.keys + first / kCacheChunk * layout.keys;
    const std::byte* ahead = segment.values + first / kCacheChunk * layout.values;
    scaled.set(chunk + layout.key_scales, chunk + layout.key_biases, head_dim, q, width);
    scaled.add(chunk, kCacheChunk / kCacheBlock, ahead, scores + first, kCachePage);
    ask_for(ahead + layout.key_scales, layout.keys - layout.key_scales);
  }
}

void add_packed_values(const CacheSegment& segment, const std::byte* next, std::size_t head_dim, std::size_t n,
                       const float* weights, std::size_t rows, float* y) {
  const PackedLayout layout(segment.format, head_dim);
  const int bits = packed_bits(segment.format.values);
  const std::size_t blocks = round_up(head_dim, kCacheBlock) / kCacheBlock, width = blocks * kCacheBlock;
  const std::size_t block_bytes = kValueTiles * tile_bytes(static_cast<std::size_t>(bits));
  constexpr std::size_t kGroupBlocks = kCacheGroup / kCacheBlock;
  const Scaled scaled(bits, kCacheChunk, rows);
  for (std::size_t first = 0; first < n; first += kCacheChunk) {
    const std::byte* chunk = segment.values + first / kCacheChunk * layout.values;
    const std::byte* ahead = next == nullptr ? chunk : next + first / kCacheChunk * layout.values;
    for (std::size_t g = 0; g < layout.groups; ++g) {
      const std::byte* scales = chunk + layout.value_scales + g * layout.value_group;
      scaled.set(scales, scales + kCacheChunk * sizeof(std::uint16_t), kCacheChunk, weights + first, kCachePage);
      const std::size_t block = g * kGroupBlocks;
      scaled.add(chunk + block * block_bytes, std::min(kGroupBlocks, blocks - block), ahead + block * block_bytes,
                 y + block * kCacheBlock, width);
    }
    ask_for(ahead + layout.value_scales, layout.values - layout.value_scales);
  }
}

}  // namespace optiq::kernels::cpu
