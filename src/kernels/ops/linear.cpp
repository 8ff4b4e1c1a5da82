#include "../check.h"
#include "../composed.h"
#include "../cpu/cpu_ops.h"

namespace optiq::kernels {

mx::array linear(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias,
                 Compute compute) {
  check_activation("linear", "x", x);
  check_rank("linear", "weight", weight, 2);
  check_float("linear", "weight", weight);
  if (weight.shape(1) == 0) refuse("linear", "weight", "1 input or more", describe(weight));
  check_last_axis("linear", "x", x, weight.shape(1));
  if (bias) {
    check_float("linear", "bias", *bias);
    check_shape("linear", "bias", *bias, {weight.shape(0)});
  }
  return (on_cpu() ? cpu::linear : composed::linear)(x, weight, bias, compute);
}

}  // namespace optiq::kernels
