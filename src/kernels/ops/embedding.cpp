#include "../check.h"
#include "../composed.h"
#include "../cpu/cpu_ops.h"

namespace optiq::kernels {

mx::array embedding(const mx::array& tokens, const mx::array& table) {
  check_dtype("embedding", "tokens", tokens, mx::int32);
  check_rank("embedding", "table", table, 2);
  check_float("embedding", "table", table);
  return (on_cpu() ? cpu::embedding : composed::embedding)(tokens, table);
}

}  // namespace optiq::kernels
