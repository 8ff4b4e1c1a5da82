#include "../check.h"
#include "../check_quantized.h"
#include "../composed.h"
#include "../cpu/cpu_ops.h"

namespace optiq::kernels {

mx::array dequantize(const QuantizedWeight& weight) {
  check_quantized("dequantize", weight);
  return (on_cpu() ? cpu::dequantize : composed::dequantize)(weight);
}

}  // namespace optiq::kernels
