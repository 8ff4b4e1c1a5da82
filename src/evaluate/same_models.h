// Workers that evaluate have checkpoints of their own.
#pragma once

#include <string>

#include "optiq/model/model.h"
#include "optiq/workers/workers.h"

namespace optiq::evaluate {

/// usage naming `job` and the model where another worker's model or reference (nullptr: none) is not a copy
/// of the first one's.
Status require_same_models(const Workers& workers, const model::Model& model, const model::Model* reference,
                           const std::string& job);

}  // namespace optiq::evaluate
