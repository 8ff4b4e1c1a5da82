// Weight matrices (optiq/kernels/cpu.h) as the product loops read them.
#pragma once

#include "isa.h"
#include "optiq/kernels/matrix.h"
#include "products.h"

namespace optiq::kernels::cpu {

/// As the int8 loops take it.
QuantizedRows quantized_rows(const Matrix& matrix);

/// Columns `columns` (whole groups) of a quantized row; its group values go to `values`, group_values()
/// floats.
QuantizedRow quantized_row(const Matrix& matrix, std::size_t row, Range columns, float* values);
std::size_t group_values(const Matrix& matrix, Range columns);

/// Element (row, column) of a dense matrix.
const char* element(const Matrix& matrix, std::size_t row, std::size_t column);

/// Blocks in f32: widened, dequantized, or in place.
BlockedWeight<float> f32_blocks(const Matrix& matrix);

/// Blocks of a dense matrix, rounded to bf16 where it is not stored so.
BlockedWeight<std::uint16_t> bf16_blocks(const Matrix& matrix);

/// y = x·Wᵀ + bias (none if empty) of evaluated arrays, by a Multiplier of this thread.
void multiply(const mlx::core::array& x, const Matrix& weight, std::span<const float> bias, Compute compute,
              mlx::core::array& y);

}  // namespace optiq::kernels::cpu
