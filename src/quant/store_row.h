// How encoders write a QuantizedMatrix: row by row.
#pragma once

#include <span>

#include "group.h"
#include "optiq/quant/format.h"

namespace optiq::quant {

/// Room for [out, in] at `format`, all zeros.
QuantizedMatrix empty_matrix(std::int64_t out_features, std::int64_t in_features, Format format, DType dtype);

/// Levels and pairs of one row. False where a scale or bias is not finite.
bool store_row(QuantizedMatrix& result, std::size_t row, std::span<const std::uint8_t> q,
               std::span<const Affine> affine);

}  // namespace optiq::quant
