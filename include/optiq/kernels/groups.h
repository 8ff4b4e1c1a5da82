// Groups of values in the packed format, made by MLX operations: what a packed KV cache holds on a GPU.
#pragma once

#include <mlx/mlx.h>

namespace optiq::kernels {

namespace mx = mlx::core;

/// Groups of cpu::kCacheGroup values along the last axis, x [..., n]; a value is level·scale + bias.
struct PackedGroups {
  mx::array
      levels;  ///< u32 [..., n·bits/32]: a stream of bits, the lowest first, as MLX's quantized matrices
  mx::array scales;  ///< f16 [..., n/kCacheGroup]
  mx::array biases;  ///< likewise
};

/// x f16 [..., n], n a multiple of cpu::kCacheGroup; bits 3, 4, 5, 6 or 8. Asymmetric, from the least value
/// to the largest, levels found for scales and biases as f16 can say them: the values of cpu::LayerCache. A
/// group with a value that is not a number has none. (MLX's own quantize finds levels for the unrounded
/// scale, and on CUDA counts 0 into every group.) Throws std::invalid_argument for other shapes and types.
PackedGroups quantize_groups(const mx::array& x, int bits);

/// f32 [..., n].
mx::array dequantize_groups(const PackedGroups& groups, int bits);

}  // namespace optiq::kernels
