// Which workers the environment names.
#pragma once

#include <cstdint>
#include <string>

#include "optiq/base/result.h"

namespace optiq {

struct WorkersPlace {
  std::string backend;  ///< of MLX; empty for one process
  std::int64_t rank = 0;
  std::int64_t size = 1;
};

/// Errors: those of Workers::named_by_environment().
Result<WorkersPlace> place_in_environment();

}  // namespace optiq
