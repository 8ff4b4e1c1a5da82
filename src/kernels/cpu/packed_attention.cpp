#include "packed_attention.h"

#include <algorithm>

#include "isa.h"
#include "scratch.h"

namespace optiq::kernels::cpu {
namespace {

/// y[r] = w·x[r], for any number of rows.
void dot_rows(const float* w, std::size_t n, const float* x, std::size_t stride, std::size_t rows, float* y) {
  for (std::size_t r = 0; r < rows; r += kDotRows)
    kernels().dot(Storage::f32, w, n, x + r * stride, stride, std::min(kDotRows, rows - r), y + r);
}

void add_constant(float constant, std::size_t n, float* y) {
  for (std::size_t i = 0; i < n; ++i) y[i] += constant;
}

/// What a chunk or a group of it needs beside its tile: scales and biases [n] each, the rows with their
/// scales [rows][n], and of each row its product with the biases.
struct Scaled {
  float *scales, *biases, *rows, *offsets;

  Scaled(std::size_t n, std::size_t row_count, std::size_t row_stride)
      : scales(scratch<float>(Slot::group_values, 2 * n + row_count * (row_stride + 1))),
        biases(scales + n),
        rows(biases + n),
        offsets(rows + row_count * row_stride) {}
};

constexpr std::size_t kTileValues = kCacheSteps * kCacheBlock;

}  // namespace

void packed_scores(const CacheSegment& segment, std::size_t head_dim, std::size_t n, const float* q,
                   std::size_t rows, float* scores) {
  constexpr std::size_t kBlocks = 2;  // at once: two vectors of keys hide the products' latency
  const int bits = packed_bits(segment.format.keys);
  const PackedLayout layout(segment.format, head_dim);
  const std::size_t width = round_up(head_dim, kCacheSteps), tiles = kBlocks * width / kCacheSteps;
  const Scaled scaled(width, rows, width);
  float* keys = scratch<float>(Slot::weights, tiles * kTileValues);
  std::fill_n(scaled.scales, 2 * width, 0.0f);
  for (std::size_t first = 0; first < n; first += kCacheChunk) {
    const std::byte* chunk = segment.keys + first / kCacheChunk * layout.keys;
    kernels().widen(Storage::f16, chunk + layout.key_scales, head_dim, scaled.scales);
    kernels().widen(Storage::f16, chunk + layout.key_biases, head_dim, scaled.biases);
    for (std::size_t r = 0; r < rows; ++r)
      kernels().multiply_elements(q + r * width, scaled.scales, width, scaled.rows + r * width);
    dot_rows(scaled.biases, width, q, width, rows, scaled.offsets);
    for (std::size_t b = 0; b < kCacheChunk / kCacheBlock; b += kBlocks) {
      for (std::size_t i = 0; i < tiles; ++i, chunk += tile_words(bits) * sizeof(std::uint32_t))
        kernels().cache_unpack(bits, chunk, keys + i * kTileValues, kCacheBlock);
      kernels().cache_scores(CacheStorage::f32, keys, width, kBlocks, scaled.rows, width, rows,
                             scores + first + b * kCacheBlock, kCachePage);
    }
    for (std::size_t r = 0; r < rows; ++r)
      add_constant(scaled.offsets[r], kCacheChunk, scores + r * kCachePage + first);
  }
}

void add_packed_values(const CacheSegment& segment, std::size_t head_dim, std::size_t n, const float* weights,
                       std::size_t rows, float* y) {
  const int bits = packed_bits(segment.format.values);
  const PackedLayout layout(segment.format, head_dim);
  const std::size_t width = round_up(head_dim, kCacheBlock), tiles = width / kCacheBlock;
  const std::size_t tile_size = tile_words(bits) * sizeof(std::uint32_t);
  const Scaled scaled(kCacheChunk, rows, kCacheChunk);
  float* values = scratch<float>(Slot::weights, kCacheGroup * kCacheSteps);
  for (std::size_t first = 0; first < n; first += kCacheChunk) {
    const std::byte* chunk = segment.values + first / kCacheChunk * layout.values;
    const std::size_t count = std::min(kCacheChunk, n - first);
    for (std::size_t g = 0; g < layout.groups; ++g) {
      const std::size_t column = g * kCacheGroup, columns = std::min(kCacheGroup, width - column);
      const std::byte* scales = chunk + layout.value_scales + g * layout.value_group;
      kernels().widen(Storage::f16, scales, 2 * kCacheChunk, scaled.scales);
      for (std::size_t r = 0; r < rows; ++r)
        kernels().multiply_elements(weights + r * kCachePage + first, scaled.scales, count,
                                    scaled.rows + r * kCacheChunk);
      dot_rows(scaled.biases, count, weights + first, kCachePage, rows, scaled.offsets);
      for (std::size_t token = 0; token < count; token += kCacheSteps) {
        const std::byte* from = chunk + (token / kCacheSteps * tiles + column / kCacheBlock) * tile_size;
        for (std::size_t c = 0; c < columns; c += kCacheBlock, from += tile_size)
          kernels().cache_unpack(bits, from, values + c, columns);
        kernels().cache_values(CacheStorage::f32, values, columns, std::min(kCacheSteps, count - token),
                               scaled.rows + token, kCacheChunk, rows, y + column, width);
      }
      for (std::size_t r = 0; r < rows; ++r) add_constant(scaled.offsets[r], columns, y + r * width + column);
    }
  }
}

}  // namespace optiq::kernels::cpu
