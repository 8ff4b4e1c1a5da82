// Which foldings are worth it for a model and a plan: each is tried, and kept only where divergence falls.
#pragma once

#include "optiq/compare/compare.h"
#include "optiq/fold/fold.h"

namespace optiq::compare {

/// One set of foldings that was carried out.
struct FoldTrial {
  std::vector<fold::Fold> folds;
  MeanError kl;          ///< to the reference, on the held-out tokens
  MeanError difference;  ///< less that of the best set before it, paired by window; 0 for the first
  bool kept = false;
};

struct FoldChoice {
  std::vector<fold::Fold> folds;  ///< the set that was kept: what is best of the trials
  std::vector<FoldTrial> trials;  ///< the first: none
};

/// Encodes the plan without foldings, then with r1, r2 and awq (those that the model can take), each beside
/// those that were kept before, and keeps what lowers the KL on `held_out` by more than a standard error of
/// the paired difference. `activations`: the profile's file. `options`: all but the foldings. Works in
/// `folder`, which is lost afterwards. Cost: an encoding and an evaluation for each trial. Errors: those of
/// fold_checkpoint and encode_checkpoint.
Result<FoldChoice> choose_folds(const plan::Plan& plan, const model::Model& reference,
                                const std::filesystem::path& activations,
                                const calibrate::TokenBatch& held_out, fold::Options options,
                                const std::filesystem::path& folder, const Progress& progress);

}  // namespace optiq::compare
