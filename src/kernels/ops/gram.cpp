#include "../check.h"
#include "../composed.h"
#include "../cpu/cpu_ops.h"

namespace optiq::kernels {

mx::array gram(const mx::array& x, Compute compute) {
  check_activation("gram", "x", x);
  if (x.ndim() == 0) refuse("gram", "x", "[..., n]", describe(x));
  return on_cpu() ? cpu::gram(x, compute) : composed::gram(x);
}

}  // namespace optiq::kernels
