#include "../check.h"
#include "../check_quantized.h"
#include "../composed.h"
#include "../cpu/cpu_ops.h"

namespace optiq::kernels {

mx::array quantized_embedding(const mx::array& tokens, const QuantizedWeight& table) {
  check_dtype("quantized_embedding", "tokens", tokens, mx::int32);
  check_quantized("quantized_embedding", table);
  return (on_cpu() ? cpu::quantized_embedding : composed::quantized_embedding)(tokens, table);
}

}  // namespace optiq::kernels
