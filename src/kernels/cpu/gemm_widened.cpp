#include "gemm_widened.h"

#include "isa.h"
#include "scratch.h"

namespace optiq::kernels::cpu {
namespace {

/// The stored rows of an operand ([rows, columns] as stored), widened.
Operand<float> widened(const Operand<std::uint16_t>& operand, std::size_t rows, std::size_t columns,
                       Slot slot) {
  if (operand.transposed) std::swap(rows, columns);
  float* wide = scratch<float>(slot, rows * columns);
  for (std::size_t r = 0; r < rows; ++r) {
    kernels().widen(Storage::bf16, operand.data + r * operand.stride, columns, wide + r * columns);
  }
  return {wide, columns, operand.transposed};
}

}  // namespace

void multiply_widened(const Product<std::uint16_t>& p) {
  multiply(Product<float>{p.m, p.n, p.k, widened(p.a, p.m, p.k, Slot::narrow_a),
                          widened(p.b, p.k, p.n, Slot::narrow_b), p.c, p.c_stride, p.accumulate, p.scale});
}

}  // namespace optiq::kernels::cpu
