#include "optiq/evaluate/measure.h"

#include "optiq/base/file.h"
#include "optiq/encode/encode.h"

namespace optiq::evaluate {

Result<std::vector<Quality>> measure_folder(const std::filesystem::path& folder,
                                            const model::Model& reference,
                                            std::span<const calibrate::TokenBatch> texts,
                                            const Progress& progress, const MemoryLimit& memory) {
  OPTIQ_TRY(const auto model, model::Model::open(folder, reference.checkpoint().access()));
  std::vector<Quality> qualities;
  for (const calibrate::TokenBatch& text : texts) {
    const Options options{.context = text.tokens, .memory = memory};
    OPTIQ_TRY(Quality quality, evaluate_text(model, &reference, text.ids, options, progress));
    qualities.push_back(std::move(quality));
  }
  return qualities;
}

Result<std::vector<Quality>> measure_trial(const Trial& trial, const model::Model& reference,
                                           std::span<const calibrate::TokenBatch> texts,
                                           const std::filesystem::path& folder, const Progress& progress,
                                           const MemoryLimit& memory) {
  const ScratchFolder scratch(folder);
  OPTIQ_TRY(const auto calibration, encode::read_calibration(trial.activations, trial.plan));
  OPTIQ_CHECK(
      encode::encode_checkpoint(trial.source.checkpoint(), trial.plan, calibration, folder, {.memory = memory}, progress));
  return measure_folder(folder, reference, texts, progress, memory);
}

}  // namespace optiq::evaluate
