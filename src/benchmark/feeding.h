// Feeding an engine for the time it takes: nobody looks at the logits.
#pragma once

#include <cstdint>
#include <span>

#include "optiq/engine/engine.h"

namespace optiq::benchmark {

/// Seconds to feed all of `ids` at once.
Result<double> seconds_to_feed(engine::Engine& engine, std::span<const std::int32_t> ids);
/// Seconds to feed them one by one.
Result<double> seconds_to_decode(engine::Engine& engine, std::span<const std::int32_t> ids);

}  // namespace optiq::benchmark
