#include "store_row.h"

#include <cmath>

#include "optiq/quant/packing.h"
#include "stored.h"

namespace optiq::quant {

QuantizedMatrix empty_matrix(std::int64_t out_features, std::int64_t in_features, Format format,
                             DType dtype) {
  QuantizedMatrix result{out_features, in_features, format, dtype, {}, {}, {}};
  const auto rows = static_cast<std::size_t>(out_features);
  const std::size_t affine_bytes =
      rows * static_cast<std::size_t>(in_features / format.group_size) * dtype_bytes(dtype);
  result.weight.resize(rows * static_cast<std::size_t>(packed_row_words(in_features, format.bits)));
  result.scales.resize(affine_bytes);
  result.biases.resize(affine_bytes);
  return result;
}

bool store_row(QuantizedMatrix& result, std::size_t row, std::span<const std::uint8_t> q,
               std::span<const Affine> affine) {
  for (std::size_t g = 0; g < affine.size(); ++g) {
    if (!std::isfinite(affine[g].scale) || !std::isfinite(affine[g].bias)) return false;
    const std::size_t offset = (row * affine.size() + g) * dtype_bytes(result.dtype);
    store_float(affine[g].scale, result.dtype, result.scales.data() + offset);
    store_float(affine[g].bias, result.dtype, result.biases.data() + offset);
  }
  const auto words = static_cast<std::size_t>(packed_row_words(result.in_features, result.format.bits));
  pack_row(q, result.format.bits, std::span(result.weight).subspan(row * words, words));
  return true;
}

}  // namespace optiq::quant
