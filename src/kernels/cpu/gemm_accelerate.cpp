// The macOS backend: Accelerate's cblas_sgemm.
#if defined(__APPLE__)

#include <Accelerate/Accelerate.h>

#include "gemm.h"
#include "gemm_widened.h"

namespace optiq::kernels::cpu {

void multiply(const Product<float>& p) {
  if (p.m == 0 || p.n == 0) return;
  const auto size = [](std::size_t value) { return static_cast<int>(value); };
  cblas_sgemm(CblasRowMajor, p.a.transposed ? CblasTrans : CblasNoTrans,
              p.b.transposed ? CblasTrans : CblasNoTrans, size(p.m), size(p.n), size(p.k), p.scale, p.a.data,
              size(p.a.stride), p.b.data, size(p.b.stride), p.accumulate ? 1.0f : 0.0f, p.c,
              size(p.c_stride));
}

void multiply(const Product<std::uint16_t>& p) {
  multiply_widened(p);
}

}  // namespace optiq::kernels::cpu

#endif
