#include "../check.h"
#include "../composed.h"
#include "../cpu/cpu_ops.h"

namespace optiq::kernels {

mx::array label_log_probabilities(const mx::array& logits, const mx::array& labels) {
  check_activation("label_log_probabilities", "logits", logits);
  check_rank("label_log_probabilities", "logits", logits, 2);
  check_dtype("label_log_probabilities", "labels", labels, mx::int32);
  check_shape("label_log_probabilities", "labels", labels, {logits.shape(0)});
  return (on_cpu() ? cpu::label_log_probabilities : composed::label_log_probabilities)(logits, labels);
}

}  // namespace optiq::kernels
