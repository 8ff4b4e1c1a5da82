#include "../check.h"
#include "../composed.h"
#include "../cpu/cpu_ops.h"

namespace optiq::kernels {

mx::array kl_divergence(const mx::array& reference, const mx::array& logits) {
  check_activation("kl_divergence", "reference", reference);
  check_rank("kl_divergence", "reference", reference, 2);
  check_activation("kl_divergence", "logits", logits);
  check_shape("kl_divergence", "logits", logits, reference.shape());
  return (on_cpu() ? cpu::kl_divergence : composed::kl_divergence)(reference, logits);
}

}  // namespace optiq::kernels
