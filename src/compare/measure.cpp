#include "optiq/evaluate/measure.h"

#include "optiq/base/file.h"
#include "optiq/compare/compare.h"
#include "optiq/fold/fold.h"

namespace optiq::compare {
namespace {

namespace fs = std::filesystem;
using evaluate::Quality;

Result<std::vector<Quality>> measure_simulated(BlockFormat format, const model::Model& reference,
                                               std::span<const calibrate::TokenBatch> texts,
                                               const fs::path& folder, const Progress& progress) {
  const ScratchFolder scratch(folder);
  OPTIQ_CHECK(write_simulated(reference, format, folder, progress));
  return evaluate::measure_folder(folder, reference, texts, progress);
}

Result<std::vector<Quality>> measure_awq(const plan::Plan& plan, const model::Model& reference,
                                         const fs::path& activations,
                                         std::span<const calibrate::TokenBatch> texts, const fs::path& folder,
                                         const Progress& progress) {
  const ScratchFolder scratch(fs::path(folder.string() + ".folded"));
  fold::Options options;
  options.folds = {fold::Fold::awq};
  options.format = plan.modules.front().format;
  OPTIQ_TRY(const auto folded,
            fold::fold_for_encoding(reference, activations, options, scratch.path(), progress));
  return evaluate::measure_trial({plan, folded.model, folded.activations}, reference, texts, folder,
                                 progress);
}

}  // namespace

Result<Quality> measure(const Candidate& candidate, const model::Model& reference,
                        const fs::path& activations, const calibrate::TokenBatch& tokens,
                        const fs::path& folder, const Progress& progress) {
  const std::span texts(&tokens, 1);
  const auto first = [](std::vector<Quality> qualities) { return std::move(qualities.front()); };
  if (candidate.simulated)
    return measure_simulated(*candidate.simulated, reference, texts, folder, progress).map(first);
  if (candidate.awq)
    return measure_awq(*candidate.plan, reference, activations, texts, folder, progress).map(first);
  return evaluate::measure_trial({*candidate.plan, reference, activations}, reference, texts, folder,
                                 progress)
      .map(first);
}

Result<MeanError> paired_difference(std::span<const double> a, std::span<const double> b) {
  if (a.size() != b.size())
    return fail(ErrorCode::internal, "paired samples: {} of one, {} of the other", a.size(), b.size());
  std::vector<double> differences;
  for (std::size_t i = 0; i < a.size(); ++i) differences.push_back(a[i] - b[i]);
  return mean_with_error(differences);
}

}  // namespace optiq::compare
