// Dense products on the calling thread: C (=|+=) A·B, f32 accumulation. Callers cut the work into tiles and
// run them on base's pool; a tile's result depends on its shape and operands only. The backend (oneDNN,
// Accelerate) picks its own instructions; OPTIQ_CPU_ISA does not bind it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace optiq::kernels::cpu {

/// A matrix stored row-major with `stride` elements between rows, read as it is or transposed.
template <class T>
struct Operand {
  const T* data = nullptr;
  std::size_t stride = 0;
  bool transposed = false;
};

/// C[m, n] from A[m, k] and B[k, n] (the shapes after transposition). C row-major, `c_stride` between rows.
template <class T>
struct Product {
  std::size_t m = 0, n = 0, k = 0;
  Operand<T> a, b;
  float* c = nullptr;
  std::size_t c_stride = 0;
  bool accumulate = false;
  float scale = 1;  ///< multiplies A·B; f32 only
};

/// f32 operands.
void multiply(const Product<float>& product);

/// bf16 operands (bits in std::uint16_t). Where the machine has no bf16 instructions, the operands are
/// widened to f32 first: slower, not less exact.
void multiply(const Product<std::uint16_t>& product);

}  // namespace optiq::kernels::cpu
