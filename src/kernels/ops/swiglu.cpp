#include "../check.h"
#include "../composed.h"
#include "../cpu/cpu_ops.h"

namespace optiq::kernels {

mx::array swiglu(const mx::array& gate, const mx::array& up) {
  check_activation("swiglu", "gate", gate);
  check_dtype("swiglu", "up", up, gate.dtype());
  check_shape("swiglu", "up", up, gate.shape());
  return (on_cpu() ? cpu::swiglu : composed::swiglu)(gate, up);
}

}  // namespace optiq::kernels
