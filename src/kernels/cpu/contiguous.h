// Strided views made contiguous, in parallel: mlx-cpu does it element by element on one thread.
#pragma once

#include <mlx/mlx.h>

namespace optiq::kernels::cpu {

/// `array` itself where it is row-contiguous, else a copy that is. Evaluated, of 2- or 4-byte elements (all
/// that the operations take).
mlx::core::array row_contiguous(const mlx::core::array& array);

}  // namespace optiq::kernels::cpu
