// The three ways to price an option, behind one shape: a piece of calibration data in, one sample (or a few)
// of every (module, option) out.
#pragma once

#include <memory>
#include <vector>

#include "delta_store.h"
#include "optiq/base/random.h"
#include "optiq/profile/profile.h"

namespace optiq::profile {

/// What an estimator works on; all borrowed.
struct Workbench {
  const model::Model& model;
  const std::vector<Subject>& subjects;
  const DeltaStore& deltas;
  const calibrate::TokenBatch& batch;
  const Options& options;
};

/// One value of every (module, option), modules in order, options in the order of Subject::formats.
using Sample = std::vector<float>;

/// The hidden states in front of each block, and behind the last: layers + 1 arrays [1, T, hidden],
/// evaluated.
Result<std::vector<model::mx::array>> hidden_states(const Workbench& bench, const model::mx::array& tokens);

/// `fisher`: ⟨∂ log p(labels)/∂W, ΔW⟩ for labels that the model itself draws: one sample for each draw. One
/// forward, one recomputed forward and one backward pass, block by block.
Result<std::vector<Sample>> fisher_samples(const Workbench& bench, std::int64_t sequence);

/// `kl`: mean KL a token of the model with one module changed, for each (module, option): one sample. The
/// pass restarts at the changed block.
Result<std::vector<Sample>> kl_samples(const Workbench& bench, std::int64_t sequence);

/// `mse`: ‖ΔW·x‖² / ‖W·x‖² over the inputs x of sequences [first, last): one sample. A module that is only
/// looked up (an untied embedding) counts with x of equal weights.
Result<std::vector<Sample>> mse_samples(const Workbench& bench, std::int64_t first, std::int64_t last);

}  // namespace optiq::profile
