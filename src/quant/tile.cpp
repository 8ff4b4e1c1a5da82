#include "tile.h"

#include <cstring>

#include "multiversion.h"

namespace optiq::quant {
namespace {

constexpr std::size_t kVector = 16;
constexpr std::size_t kVectors = kTileLanes / kVector;
using Lanes = float __attribute__((vector_size(kVector * sizeof(float)), aligned(4)));

}  // namespace

OPTIQ_MULTIVERSION
void add_product_tile(Strided out, ConstStrided a, ConstStrided b, std::size_t depth, float sign) {
  Lanes sums[kTileRows][kVectors] = {};
  for (std::size_t k = 0; k < depth; ++k) {
    Lanes right[kVectors];
    std::memcpy(right, b.data + k * b.stride, sizeof right);
    const float* left = a.data + k * a.stride;
    for (std::size_t r = 0; r < kTileRows; ++r) {
      for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] += right[v] * left[r];
    }
  }
  for (std::size_t r = 0; r < kTileRows; ++r) {
    Lanes values[kVectors];
    std::memcpy(values, out.data + r * out.stride, sizeof values);
    for (std::size_t v = 0; v < kVectors; ++v) values[v] += sums[r][v] * sign;
    std::memcpy(out.data + r * out.stride, values, sizeof values);
  }
}

}  // namespace optiq::quant
