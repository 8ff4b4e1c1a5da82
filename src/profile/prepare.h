// What every estimator needs first: what the inputs look like, and the change of weight of every option.
#pragma once

#include "delta_store.h"
#include "optiq/profile/profile.h"

namespace optiq::profile {

struct Prepared {
  Importance importance;
  DeltaStore deltas;
};

/// One pass over the calibration sequences; `gptq` encodes each block while its second moments are at hand.
/// bad_input naming the weight where one is not finite. `least_bytes`: what estimating takes beside the
/// changes of weight.
Result<Prepared> prepare(const model::Model& model, const calibrate::TokenBatch& batch,
                         const std::vector<Subject>& subjects, const Options& options,
                         std::uint64_t least_bytes, const Progress& progress);

}  // namespace optiq::profile
