#include "targets.h"

#include <algorithm>

namespace optiq::tune {

Result<std::vector<kernels::TopProbabilities>> reference_targets(const model::Model& reference,
                                                                 const calibrate::TokenBatch& batch,
                                                                 std::int64_t kept_tokens,
                                                                 kernels::Compute compute,
                                                                 const Progress& progress) {
  const std::int64_t vocabulary = reference.config().vocabulary;
  const auto beyond = [vocabulary](std::int32_t token) { return token < 0 || token >= vocabulary; };
  if (std::ranges::any_of(batch.ids, beyond))
    return fail(ErrorCode::bad_input, "calibration: a token is outside the model's vocabulary of {}",
                vocabulary);
  if (kept_tokens < 1) return fail(ErrorCode::usage, "expected at least one kept token, got {}", kept_tokens);
  const auto kept = static_cast<int>(std::min(kept_tokens, vocabulary - 1));
  std::vector<kernels::TopProbabilities> targets;
  for (std::int64_t i = 0; i < batch.sequences; ++i) {
    report_progress(progress, "asking the reference", static_cast<double>(i),
                    static_cast<double>(batch.sequences));
    const mx::array logits = reference.forward(batch.array(i), {.compute = compute});
    auto target = kernels::top_probabilities(mx::reshape(logits, {-1, logits.shape(-1)}), kept);
    OPTIQ_CHECK(model::evaluate({target.tokens, target.log_probabilities, target.log_tail}));
    targets.push_back(std::move(target));
  }
  return targets;
}

Result<double> mean_divergence(const Student& student, const calibrate::TokenBatch& batch,
                               const std::vector<kernels::TopProbabilities>& targets, std::int64_t first,
                               std::int64_t last) {
  double sum = 0;
  for (std::int64_t i = first; i < last; ++i) {
    OPTIQ_TRY(const double value, student.divergence(batch.array(i), targets[static_cast<std::size_t>(i)]));
    sum += value;
  }
  return sum / static_cast<double>(last - first);
}

}  // namespace optiq::tune
