#include "feeding.h"

#include "optiq/benchmark/timing.h"

namespace optiq::benchmark {

Result<double> seconds_to_feed(engine::Engine& engine, std::span<const std::int32_t> ids) {
  Status status;
  const double seconds = seconds_of([&] {
    if (const auto logits = engine.feed(ids); !logits) status = tl::unexpected(logits.error());
  });
  OPTIQ_CHECK(status);
  return seconds;
}

Result<double> seconds_to_decode(engine::Engine& engine, std::span<const std::int32_t> ids) {
  double seconds = 0;
  for (const std::int32_t& id : ids) {
    OPTIQ_TRY(const double more, seconds_to_feed(engine, {&id, 1}));
    seconds += more;
  }
  return seconds;
}

}  // namespace optiq::benchmark
