// How products with weights are computed on CPU.
#pragma once

namespace optiq::kernels {

enum class Compute {
  f32,   ///< f32 × f32 (weights widened or dequantized exactly), accumulated in f32
  bf16,  ///< dense weights: both operands rounded to bf16, accumulated in f32; quantized ones: as f32
  int8,  ///< quantized weights: activations rounded to int8 group by group; dense ones: as bf16 for more than
         ///< 4 rows, else as f32
};

}  // namespace optiq::kernels
