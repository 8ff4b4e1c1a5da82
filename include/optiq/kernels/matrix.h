// MLX's arrays as the CPU kernels' matrices. No copy: the arrays must outlive them.
#pragma once

#include <mlx/mlx.h>

#include "optiq/kernels/cpu.h"

namespace optiq::kernels::cpu {

/// A row-contiguous, evaluated dense array [out, in] of f32, f16 or bf16.
Matrix dense_matrix(const mlx::core::array& weight);

/// Three row-contiguous, evaluated arrays as quant/format.h says.
Matrix quantized_matrix(const mlx::core::array& weight, const mlx::core::array& scales,
                        const mlx::core::array& biases, int bits, int group_size);

/// The values of an evaluated, row-contiguous float array in f32.
std::vector<float> float_values(const mlx::core::array& array);

}  // namespace optiq::kernels::cpu
