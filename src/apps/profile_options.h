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

/// --context, --batch and --kv.
void add_memory_need(CLI::App* verb, plan::MemoryNeed& need);
/// With bits and groups where the verb has no such options of its own.
void add_plan_options(CLI::App* verb, PlanArguments& args, bool with_formats);
Result<plan::Budget> budget_of(const PlanArguments& args, const profile::Sensitivity& sensitivity);
Result<plan::Rules> rules_of(const PlanArguments& args);

/// "123.4 tokens per second predicted" with a line break, for people; empty without a limit of time.
std::string latency_line(const plan::Plan& plan);

/// What --json says of a plan (docs/formats.md, "Machine interface").
Json plan_summary(const plan::Plan& plan);

}  // namespace optiq::apps
