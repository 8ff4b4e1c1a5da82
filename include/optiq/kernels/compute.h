// How the CPU kernels compute.
#pragma once

#include <string_view>

namespace optiq::kernels {

/// How products with weights are computed.
enum class Compute {
  f32,   ///< f32 × f32 (weights widened or dequantized exactly), accumulated in f32
  bf16,  ///< dense weights: both operands rounded to bf16, accumulated in f32; quantized ones: as f32
  int8,  ///< quantized weights: activations rounded to int8 group by group; dense ones: as bf16 for more than
         ///< 4 rows, else as f32
};

/// Name of the instruction set the CPU kernels run on: "generic", "avx2", "avxvnni", "avx512", "avx512vnni";
/// on arm64 "neon", "neon-dotprod", "neon-i8mm" (docs/kernels.md). Forced by OPTIQ_CPU_ISA; an unavailable or
/// unknown name is std::invalid_argument at first use.
std::string_view cpu_isa();

}  // namespace optiq::kernels
