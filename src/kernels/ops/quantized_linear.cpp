#include "../check.h"
#include "../check_quantized.h"
#include "../composed.h"
#include "../cpu/cpu_ops.h"

namespace optiq::kernels {

mx::array quantized_linear(const mx::array& x, const QuantizedWeight& weight,
                           const std::optional<mx::array>& bias, Compute compute) {
  const int in_features = check_quantized("quantized_linear", weight);
  check_activation("quantized_linear", "x", x);
  check_last_axis("quantized_linear", "x", x, in_features);
  if (bias) {
    check_float("quantized_linear", "bias", *bias);
    check_shape("quantized_linear", "bias", *bias, {weight.weight.shape(0)});
  }
  return on_cpu() ? cpu::quantized_linear(x, weight, bias, compute)
                  : composed::quantized_linear(x, weight, bias);
}

}  // namespace optiq::kernels
