// Products of rounded activations with quantized matrices.
#pragma once

#include <cstdint>
#include <span>

#include "rounded_rows.h"

namespace optiq::kernels::cpu {

/// Two ways to the same sums. The results differ in rounding only.
enum class Int8Way : std::uint8_t {
  dots,    ///< every weight row is read once, packed, against a few rows of x at a time
  panels,  ///< panels of weight rows are unpacked once for all rows of x
};

/// The faster way for a matrix of that width, as measured (docs/kernels.md).
Int8Way int8_way(std::size_t rows, int bits);

/// All uses' matrices are quantized and have the columns of `x`. `rows` is the number of rows of x.
void multiply_int8(RoundedRows& x, std::size_t rows, std::span<const Use> uses);

/// The same by one way, for all matrices.
void multiply_int8(RoundedRows& x, std::size_t rows, std::span<const Use> uses, Int8Way way);

}  // namespace optiq::kernels::cpu
