#include "../check.h"
#include "../composed.h"
#include "../cpu/cpu_ops.h"

namespace optiq::kernels {

mx::array rms_norm(const mx::array& x, const mx::array& weight, float eps) {
  check_activation("rms_norm", "x", x);
  check_rank("rms_norm", "weight", weight, 1);
  check_float("rms_norm", "weight", weight);
  check_last_axis("rms_norm", "x", x, weight.shape(0));
  return (on_cpu() ? cpu::rms_norm : composed::rms_norm)(x, weight, eps);
}

}  // namespace optiq::kernels
