#include "optiq/compare/choose_folds.h"

#include <algorithm>

#include "optiq/base/file.h"
#include "optiq/evaluate/measure.h"

namespace optiq::compare {
namespace {

namespace fs = std::filesystem;
using evaluate::Quality;

class Trials {
 public:
  Trials(const plan::Plan& plan, const model::Model& reference, const fs::path& activations,
         const calibrate::TokenBatch& held_out, fold::Options options, const fs::path& folder,
         const Progress& progress)
      : plan_(plan),
        reference_(reference),
        activations_(activations),
        held_out_(held_out),
        options_(std::move(options)),
        folder_(folder),
        progress_(progress) {}

  Status begin() {
    OPTIQ_TRY(const Quality quality, measure_unfolded());
    best_ = quality.window_kl;
    choice_.trials.push_back({{}, quality.distance.kl, {}, true});
    return {};
  }

  /// What was kept, and this one beside it.
  Status try_with(fold::Fold fold) {
    options_.folds = choice_.folds;
    options_.folds.push_back(fold);
    std::ranges::sort(options_.folds);
    OPTIQ_TRY(const Quality quality, measure_folded());
    OPTIQ_TRY(const MeanError difference, paired_difference(quality.window_kl, best_));
    const bool falls = difference.mean + difference.standard_error < 0;
    choice_.trials.push_back({options_.folds, quality.distance.kl, difference, falls});
    if (!falls) return {};
    choice_.folds = options_.folds;
    best_ = quality.window_kl;
    return {};
  }

  FoldChoice& choice() { return choice_; }

 private:
  Result<Quality> measure_unfolded() const { return measure_from(reference_, activations_); }

  Result<Quality> measure_folded() const {
    const ScratchFolder scratch(folder_ / "folded");
    OPTIQ_TRY(const auto folded,
              fold::fold_for_encoding(reference_, activations_, options_, scratch.path(), progress_));
    return measure_from(folded.model, folded.activations);
  }

  Result<Quality> measure_from(const model::Model& source, const fs::path& activations) const {
    return evaluate::measure_trial({plan_, source, activations}, reference_, std::span(&held_out_, 1),
                                   folder_ / "encoded", progress_)
        .map([](std::vector<Quality> qualities) { return std::move(qualities.front()); });
  }

  const plan::Plan& plan_;
  const model::Model& reference_;
  const fs::path& activations_;
  const calibrate::TokenBatch& held_out_;
  fold::Options options_;
  const fs::path& folder_;
  const Progress& progress_;
  std::vector<double> best_;  ///< KL of each window with what was kept
  FoldChoice choice_;
};

}  // namespace

Result<FoldChoice> choose_folds(const plan::Plan& plan, const model::Model& reference,
                                const fs::path& activations, const calibrate::TokenBatch& held_out,
                                fold::Options options, const fs::path& folder, const Progress& progress) {
  const ScratchFolder scratch(folder);
  OPTIQ_CHECK(make_folder(folder));
  Trials trials(plan, reference, activations, held_out, std::move(options), folder, progress);
  OPTIQ_CHECK(trials.begin());
  for (const fold::Fold fold : fold::kAllFolds) {
    if (!fold::check_fold(reference, fold)) continue;
    OPTIQ_CHECK(trials.try_with(fold));
  }
  return std::move(trials.choice());
}

}  // namespace optiq::compare
