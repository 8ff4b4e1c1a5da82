// Whether two folders, on one machine or two, hold the same checkpoint.
#pragma once

#include <string>

#include "optiq/io/checkpoint.h"

namespace optiq::io {

/// What copies have in common, wherever they lie: config.json, and each tensor's name, type, shape and first,
/// middle and last KiB. Read in milliseconds. (checkpoint_identity() tells files of one machine apart.)
std::string content_identity(const Checkpoint& checkpoint);

}  // namespace optiq::io
