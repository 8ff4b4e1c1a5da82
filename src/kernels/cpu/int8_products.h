// Products of rounded activations with quantized matrices.
#pragma once

#include <span>

#include "rounded_rows.h"

namespace optiq::kernels::cpu {

/// All uses' matrices are quantized and have the columns of `x`. `rows` is the number of rows of x.
void multiply_int8(RoundedRows& x, std::size_t rows, std::span<const Use> uses);

}  // namespace optiq::kernels::cpu
