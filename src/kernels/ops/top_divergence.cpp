#include <fmt/format.h>

#include "../check.h"
#include "../composed.h"
#include "../cpu/cpu_ops.h"

namespace optiq::kernels {

TopProbabilities top_probabilities(const mx::array& logits, int count) {
  check_activation("top_probabilities", "logits", logits);
  check_rank("top_probabilities", "logits", logits, 2);
  if (count < 1 || count >= logits.shape(1)) {
    refuse("top_probabilities", "count", fmt::format("1 to {}", logits.shape(1) - 1), std::to_string(count));
  }
  return (on_cpu() ? cpu::top_probabilities : composed::top_probabilities)(logits, count);
}

mx::array top_divergence(const TopProbabilities& reference, const mx::array& logits) {
  check_activation("top_divergence", "logits", logits);
  check_rank("top_divergence", "logits", logits, 2);
  check_rank("top_divergence", "tokens", reference.tokens, 2);
  check_dtype("top_divergence", "tokens", reference.tokens, mx::int32);
  check_shape("top_divergence", "tokens", reference.tokens, {logits.shape(0), reference.tokens.shape(1)});
  check_shape("top_divergence", "log_probabilities", reference.log_probabilities, reference.tokens.shape());
  check_shape("top_divergence", "log_tail", reference.log_tail, {logits.shape(0)});
  return (on_cpu() ? cpu::top_divergence : composed::top_divergence)(reference, logits);
}

}  // namespace optiq::kernels
