// Two ways to price an option, behind one shape: a sequence in, one sample (or a few) of every (module,
// option) out. The third, `mse`, goes stage by stage: mse.h.
#pragma once

#include <memory>
#include <vector>

#include "delta_store.h"
#include "optiq/base/random.h"
#include "optiq/model/stream.h"
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

/// The hidden states in front of each block, and behind the last: layers + 1 arrays [1, T, hidden].
Result<model::Activations> hidden_states(const Workbench& bench, const model::mx::array& tokens);
/// What they take.
std::uint64_t sequence_hidden_bytes(const model::Model& model, std::int64_t tokens);

/// `fisher`: ⟨∂ log p(labels)/∂W, ΔW⟩ for labels that the model itself draws: one sample for each draw. One
/// forward, one recomputed forward and one backward pass, block by block.
Result<std::vector<Sample>> fisher_samples(const Workbench& bench, std::int64_t sequence);
/// The least memory of profiling by it.
std::uint64_t fisher_bytes(const model::Model& model, std::int64_t tokens, const Options& options);

/// `kl`: mean KL a token of the model with one module changed, for each (module, option): one sample. The
/// pass restarts at the changed block.
Result<std::vector<Sample>> kl_samples(const Workbench& bench, std::int64_t sequence);

}  // namespace optiq::profile
