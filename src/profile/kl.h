// The estimator `kl`, sequence by sequence. The other two go stage by stage: fisher.h, mse.h.
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

/// One value of every (module, option), modules in order, options in the order of Subject::formats; then,
/// where caches are priced, those of the KV cache (cache_options.h).
using Sample = std::vector<float>;

/// `kl`: mean KL a token of the model with one module changed, for each (module, option), or
/// one block's keys or values. The pass restarts at the changed block.
Result<Sample> kl_sample(const Workbench& bench, std::int64_t sequence);

}  // namespace optiq::profile
