// The options of profiling and of budgets, shared by the verbs that profile and plan.
#pragma once

#include "optiq/calibrate/calibrate.h"
#include "optiq/plan/planner.h"
#include "optiq/profile/profile.h"
#include "verbs.h"

namespace optiq::apps {

struct ProfileArguments {
  calibrate::Source source;              ///< without its parts
  std::vector<std::string> calibration;  ///< as typed: the parts
  std::string estimator = "fisher", encoder = "gptq", compute = "bf16";
  std::vector<int> bits, groups;
  std::int64_t label_draws = profile::Options{}.label_draws;
  bool caches = false;  ///< price the KV cache, too
};

void add_profile_options(CLI::App* verb, ProfileArguments& args);
/// Those but --calibration.
void add_measurement_options(CLI::App* verb, ProfileArguments& args);
/// The source with its parts; "self" where none was named.
Result<calibrate::Source> calibration_source(const ProfileArguments& args);
Result<profile::Options> profile_options(const ProfileArguments& args);

struct PlanArguments {
  std::optional<std::string> size, memory, device, reduce;  ///< as typed
  std::optional<std::string> latency;                       ///< path of latency.json
  double bits_per_weight = 0;
  plan::MemoryNeed need;         ///< with `memory` or `device`
  double tokens_per_second = 0;  ///< with `latency`
  std::vector<std::string> pins;
  plan::Rules rules;
};

/// Which options of planning a verb has.
struct PlanOptionSet {
  bool formats = false;        ///< --bits and --groups, where the verb has none of its own
  bool planned_cache = false;  ///< --kv auto
};
void add_plan_options(CLI::App* verb, PlanArguments& args, PlanOptionSet set);
Result<plan::Budget> budget_of(const PlanArguments& args, const profile::Sensitivity& sensitivity);
Result<plan::Rules> rules_of(const PlanArguments& args);

/// The bytes of --memory or --device; nothing where the budget is another.
Result<std::optional<std::uint64_t>> memory_bytes(const PlanArguments& args);

/// "123.4 tokens per second predicted" with a line break, for people; empty without a limit of time.
std::string latency_line(const plan::Plan& plan);

/// "KV cache 4.60 bits a value, 0.00123 of the predicted KL" with a line break, for people; empty where the
/// plan has none.
std::string cache_line(const plan::Plan& plan);

/// What --json says of a plan (docs/formats.md, "Machine interface").
Json plan_summary(const plan::Plan& plan);

}  // namespace optiq::apps
