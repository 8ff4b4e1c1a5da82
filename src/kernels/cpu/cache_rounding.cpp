#include <algorithm>
#include <cstring>
#include <vector>

#include "optiq/base/half.h"
#include "packed_cache.h"

namespace optiq::kernels::cpu {
namespace {

/// Where a chunk in f16 holds channel j of a token: keys in blocks of kCacheBlock tokens.
std::size_t place(CachePart part, std::size_t token, std::size_t j, std::size_t head_dim) {
  if (part == CachePart::values) return token * head_dim + j;
  return (token / kCacheBlock * head_dim + j) * kCacheBlock + token % kCacheBlock;
}

std::uint16_t rounded(float x) {
  constexpr float kLargest = 65504;
  return f32_to_f16(std::clamp(x, -kLargest, kLargest));
}

}  // namespace

void round_as_cached(CachePart part, CacheStorage storage, const float* x, std::size_t tokens,
                     std::size_t head_dim, float* y) {
  const auto pack = part == CachePart::keys ? pack_keys : pack_values;
  const auto unpack = part == CachePart::keys ? unpack_keys : unpack_values;
  const PackedLayout layout(storage, head_dim);
  std::vector<std::byte> chunk(part == CachePart::keys ? layout.keys : layout.values);
  std::vector<std::uint16_t> halves(kCacheChunk * head_dim);
  const auto bytes = [&] { return reinterpret_cast<std::byte*>(halves.data()); };
  for (std::size_t first = 0; first < tokens; first += kCacheChunk) {
    const std::size_t count = std::min(kCacheChunk, tokens - first);
    for (std::size_t t = 0; t < count; ++t)
      for (std::size_t j = 0; j < head_dim; ++j)
        halves[place(part, t, j, head_dim)] = rounded(x[(first + t) * head_dim + j]);
    if (count == kCacheChunk) {
      pack(storage, bytes(), head_dim, chunk.data());
      unpack(storage, chunk.data(), head_dim, bytes());
    }
    for (std::size_t t = 0; t < count; ++t)
      for (std::size_t j = 0; j < head_dim; ++j)
        y[(first + t) * head_dim + j] = f16_to_f32(halves[place(part, t, j, head_dim)]);
  }
}

}  // namespace optiq::kernels::cpu
