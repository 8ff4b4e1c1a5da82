// How a packed tile lies in memory: kCacheSteps steps of kCacheBlock lanes, `bits` a value. Four steps of a
// lane, a byte each, are what an int8 product adds up; a quad is those of all lanes, [kCacheBlock][4] bytes.
// The tile's eight quads are cut into planes: of their lowest 8, 4 or 2 bits, then of the rest (of 3 and 5
// bits 1, of 6 bits 2). A plane of F bits holds 8/F quads in each kQuadBytes bytes: quad k at bit k·F % 8 of
// every byte, so that a shift and a mask give it back.
#pragma once

#include "optiq/kernels/kv_cache.h"

namespace optiq::kernels::cpu {

inline constexpr std::size_t kQuadSteps = 4, kTileQuads = kCacheSteps / kQuadSteps,
                             kQuadBytes = kCacheBlock * kQuadSteps;

/// Bits of the first plane; the second has what is left.
constexpr std::size_t first_plane_bits(std::size_t bits) {
  return bits == 8 ? 8 : bits >= 4 ? 4 : 2;
}

/// Bytes of a tile, and of a plane of so many bits.
constexpr std::size_t tile_bytes(std::size_t bits) {
  return kTileQuads * kQuadBytes * bits / 8;
}

/// Where a plane of `bits` bits has quad k: at bit `shift` of the bytes from `byte` on.
struct QuadPlace {
  std::size_t byte, shift;
};
constexpr QuadPlace quad_place(std::size_t bits, std::size_t k) {
  return {k * bits / 8 * kQuadBytes, k * bits % 8};
}

}  // namespace optiq::kernels::cpu
