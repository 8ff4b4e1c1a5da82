// Everything that a stage's result depends on beside its inputs, as a line of its identity.
#pragma once

#include <string>

#include "optiq/tune/distill.h"
#include "optiq/tune/round.h"

namespace optiq::tune {

/// With a version, to be raised when the same options come to give other bytes.
std::string describe(const RoundOptions& options);
std::string describe(const DistillOptions& options);

}  // namespace optiq::tune
