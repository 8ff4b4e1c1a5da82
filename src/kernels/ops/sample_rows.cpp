#include "../check.h"
#include "../composed.h"
#include "../cpu/cpu_ops.h"

namespace optiq::kernels {

mx::array sample_rows(const mx::array& logits, const mx::array& uniforms) {
  check_activation("sample_rows", "logits", logits);
  check_rank("sample_rows", "logits", logits, 2);
  if (logits.shape(1) == 0) refuse("sample_rows", "logits", "a vocabulary", describe(logits));
  check_dtype("sample_rows", "uniforms", uniforms, mx::float32);
  check_shape("sample_rows", "uniforms", uniforms, {logits.shape(0)});
  return (on_cpu() ? cpu::sample_rows : composed::sample_rows)(logits, uniforms);
}

}  // namespace optiq::kernels
