// What the estimator `kl` needs first: what the inputs look like, and the change of weight of every option.
#pragma once

#include "delta_store.h"
#include "optiq/profile/profile.h"

namespace optiq::profile {

struct Prepared {
  Importance importance;
  DeltaStore deltas;
};

/// One pass over the calibration sequences; `gptq` encodes each block while its second moments are at hand.
/// bad_input naming the weight where one is not finite.
Result<Prepared> prepare(const model::Model& model, const calibrate::TokenBatch& batch,
                         const std::vector<Subject>& subjects, const Options& options,
                         const Progress& progress);

}  // namespace optiq::profile
