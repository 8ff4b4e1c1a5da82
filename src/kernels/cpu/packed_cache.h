// Chunks of kCacheChunk tokens of one head's keys or values in a packed storage.
//
// Keys: for each block of kCacheBlock tokens, tiles (packed_tile.h) of kCacheSteps channels (the last filled
// up with zeros); then scales [head_dim] and biases [head_dim], f16.
// Values: for each block of kCacheBlock channels (the last likewise), tiles of kCacheSteps tokens; then for
// each group of kCacheGroup channels scales [kCacheChunk] and biases [kCacheChunk], f16.
// A value is q·scale + bias. In f16 storage a chunk is what stands in any f16 segment.
#pragma once

#include "optiq/kernels/kv_cache.h"
#include "packed_tile.h"

namespace optiq::kernels::cpu {

constexpr std::size_t round_up(std::size_t n, std::size_t step) {
  return (n + step - 1) / step * step;
}

/// What waits to be packed between two passes is less.
inline constexpr std::size_t kWaitingTokens = 2 * kCacheChunk;

/// Index of element j of a token's key within a head's keys that are not packed.
constexpr std::size_t key_index(std::size_t token, std::size_t j, std::size_t head_dim) {
  return (token / kCacheBlock * head_dim + j) * kCacheBlock + token % kCacheBlock;
}

/// The cache owns what its segments show.
template <class T>
T* writable(const T* p) {
  return const_cast<T*>(p);
}

/// Tiles of a block of values.
inline constexpr std::size_t kValueTiles = kCacheChunk / kCacheSteps;

/// Sizes in bytes, and where things lie in a chunk. `storage`: packed or f16.
struct PackedLayout {
  std::size_t keys, values;               ///< a chunk
  std::size_t key_scales, key_biases;     ///< [head_dim]
  std::size_t value_scales, value_group;  ///< of the first group; [kCacheChunk] scales, then biases
  std::size_t groups;                     ///< of values

  PackedLayout(CacheFormat format, std::size_t head_dim);
};

/// From 64 tokens of an f16 segment into a chunk, and back. A group with a value that is not a number has
/// none.
void pack_keys(CacheStorage storage, const std::byte* from, std::size_t head_dim, std::byte* chunk);
void pack_values(CacheStorage storage, const std::byte* from, std::size_t head_dim, std::byte* chunk);
void unpack_keys(CacheStorage storage, const std::byte* chunk, std::size_t head_dim, std::byte* to);
void unpack_values(CacheStorage storage, const std::byte* chunk, std::size_t head_dim, std::byte* to);

}  // namespace optiq::kernels::cpu
