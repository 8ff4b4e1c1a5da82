// Any JSON as sensitivity.json, plan.json and latency.json: an error that says what is wrong, or a value that
// is written and read back the same, and that the planner can take.
#include <cstdint>
#include <string_view>

#include "optiq/plan/planner.h"
#include "require.h"

namespace {

using optiq::ErrorCode;
using optiq::Json;

void check_as_sensitivity(const Json& json) {
  const auto read = optiq::profile::sensitivity_from_json(json, "fuzz");
  if (!read) {
    OPTIQ_FUZZ_REQUIRE(read.error().code == ErrorCode::bad_input && !read.error().message.empty());
    return;
  }
  const Json written = optiq::profile::sensitivity_to_json(*read);
  const auto again = optiq::profile::sensitivity_from_json(written, "again");
  OPTIQ_FUZZ_REQUIRE(again && optiq::profile::sensitivity_to_json(*again) == written);
  const auto plan = optiq::plan::make_plan(*read, optiq::plan::size_budget(1 << 20));
  OPTIQ_FUZZ_REQUIRE(!plan || plan->bytes <= 1 << 20);
  const optiq::plan::MemoryNeed need{.context_tokens = 300, .plans_keys = true, .plans_values = true};
  const auto budget = optiq::plan::memory_budget(*read, 1 << 28, need);
  if (!budget) return;
  const auto within = optiq::plan::make_plan(*read, *budget);
  OPTIQ_FUZZ_REQUIRE(!within || within->memory->total() <= 1 << 28);
}

void check_as_plan(const Json& json) {
  const auto read = optiq::plan::plan_from_json(json, "fuzz");
  if (!read) {
    OPTIQ_FUZZ_REQUIRE(read.error().code == ErrorCode::bad_input && !read.error().message.empty());
    return;
  }
  const Json written = optiq::plan::plan_to_json(*read);
  const auto again = optiq::plan::plan_from_json(written, "again");
  OPTIQ_FUZZ_REQUIRE(again && optiq::plan::plan_to_json(*again) == written);
}

void check_as_latency(const Json& json) {
  const auto read = optiq::plan::latency_from_json(json, "fuzz");
  if (!read) {
    OPTIQ_FUZZ_REQUIRE(read.error().code == ErrorCode::bad_input && !read.error().message.empty());
    return;
  }
  const Json written = optiq::plan::latency_to_json(*read);
  const auto again = optiq::plan::latency_from_json(written, "again");
  OPTIQ_FUZZ_REQUIRE(again && optiq::plan::latency_to_json(*again) == written);
  for (const auto& entry : read->entries) {
    OPTIQ_FUZZ_REQUIRE(read->seconds(entry.out_features, entry.in_features, entry.format) == entry.seconds);
    const auto scaled = read->seconds(1, 128, entry.format);
    OPTIQ_FUZZ_REQUIRE(scaled && *scaled >= 0);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto json = optiq::parse_json({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!json) return 0;
  check_as_sensitivity(*json);
  check_as_plan(*json);
  check_as_latency(*json);
  return 0;
}
