// The inner loop of `gptq` and of its factorisation: one tile of a matrix product.
#pragma once

#include <cstddef>

namespace optiq::quant {

inline constexpr std::size_t kTileRows = 8;
inline constexpr std::size_t kTileLanes = 32;

/// An f32 matrix in memory; element (row, column) at data[row·stride + column].
struct Strided {
  float* data;
  std::size_t stride;

  [[nodiscard]] Strided at(std::size_t row, std::size_t column) const {
    return {data + row * stride + column, stride};
  }
};
struct ConstStrided {
  const float* data;
  std::size_t stride;

  [[nodiscard]] ConstStrided at(std::size_t row, std::size_t column) const {
    return {data + row * stride + column, stride};
  }
};

/// out[r][l] += sign · Σ_{k < depth} a[k][r]·b[k][l] for r < kTileRows, l < kTileLanes. Summed in the order
/// of k, without fused multiply-adds: the same bits on every machine.
void add_product_tile(Strided out, ConstStrided a, ConstStrided b, std::size_t depth, float sign);

}  // namespace optiq::quant
