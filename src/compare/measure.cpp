#include "optiq/base/file.h"
#include "optiq/compare/compare.h"
#include "optiq/encode/encode.h"

namespace optiq::compare {
Result<evaluate::Quality> measure(const plan::Plan& plan, const model::Model& reference,
                                  const std::filesystem::path& activations,
                                  const calibrate::TokenBatch& tokens, const std::filesystem::path& folder,
                                  const Progress& progress) {
  const ScratchFolder scratch(folder);
  OPTIQ_TRY(const auto calibration, encode::read_calibration(activations, plan));
  OPTIQ_CHECK(encode::encode_checkpoint(reference.checkpoint(), plan, calibration, folder, {}, progress));
  OPTIQ_TRY(const auto model, model::Model::open(folder));
  return evaluate::evaluate_text(model, &reference, tokens.ids, {.context = tokens.tokens}, progress);
}

Result<MeanError> paired_difference(std::span<const double> a, std::span<const double> b) {
  if (a.size() != b.size())
    return fail(ErrorCode::internal, "paired samples: {} of one, {} of the other", a.size(), b.size());
  std::vector<double> differences;
  for (std::size_t i = 0; i < a.size(); ++i) differences.push_back(a[i] - b[i]);
  return mean_with_error(differences);
}

}  // namespace optiq::compare
