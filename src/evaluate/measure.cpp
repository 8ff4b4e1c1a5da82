#include "optiq/evaluate/measure.h"

#include "optiq/base/file.h"
#include "optiq/encode/encode.h"

namespace optiq::evaluate {

Result<std::vector<Quality>> measure_folder(const std::filesystem::path& folder,
                                            const model::Model& reference,
                                            std::span<const calibrate::TokenBatch> texts,
                                            const Progress& progress) {
  OPTIQ_TRY(const auto model, model::Model::open(folder));
  std::vector<Quality> qualities;
  for (const calibrate::TokenBatch& text : texts) {
    OPTIQ_TRY(Quality quality,
              evaluate_text(model, &reference, text.ids, {.context = text.tokens}, progress));
    qualities.push_back(std::move(quality));
  }
  return qualities;
}

Result<std::vector<Quality>> measure_trial(const Trial& trial, const model::Model& reference,
                                           std::span<const calibrate::TokenBatch> texts,
                                           const std::filesystem::path& folder, const Progress& progress) {
  const ScratchFolder scratch(folder);
  OPTIQ_TRY(const auto calibration, encode::read_calibration(trial.activations, trial.plan));
  OPTIQ_CHECK(
      encode::encode_checkpoint(trial.source.checkpoint(), trial.plan, calibration, folder, {}, progress));
  return measure_folder(folder, reference, texts, progress);
}

}  // namespace optiq::evaluate
