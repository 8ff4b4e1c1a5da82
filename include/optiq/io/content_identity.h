// Whether two machines hold copies of the same checkpoint.
#pragma once

#include <string>

#include "optiq/io/checkpoint.h"

namespace optiq::io {

/// What copies have in common, wherever they lie: config.json, and each tensor's name, shape and first 4 KiB.
/// (checkpoint_identity() tells files of one machine apart.)
std::string content_identity(const Checkpoint& checkpoint);

}  // namespace optiq::io
