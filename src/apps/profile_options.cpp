#include "profile_options.h"

#include <cmath>

#include "engine_options.h"
#include "optiq/base/units.h"

namespace optiq::apps {
namespace {

using kernels::cpu::CacheStorage;

constexpr const char* kPlanned = "auto";

/// --kv, --kv-keys and --kv-values of a plan, as typed.
struct CacheNames {
  std::string both = "f16", keys, values;

  [[nodiscard]] const std::string& of_keys() const { return keys.empty() ? both : keys; }
  [[nodiscard]] const std::string& of_values() const { return values.empty() ? both : values; }
};

/// The planner chooses, or the storage of that name.
void set_cache(const std::string& name, bool& is_planned, CacheStorage& storage) {
  is_planned = name == kPlanned;
  if (!is_planned) storage = cache_storages().at(name);
}

void add_cache_need(CLI::App* verb, plan::MemoryNeed& need, bool with_planned) {
  std::vector<std::string> names, bits{"3", "4", "5", "6", "8", "16"};
  for (const auto& [name, storage] : cache_storages()) names.push_back(name);
  if (with_planned) {
    names.emplace_back(kPlanned);
    bits.emplace_back(kPlanned);
  }
  const std::string planned =
      with_planned ? "; auto: chosen block by block, by a profile made with --kv" : "";
  auto typed = std::make_shared<CacheNames>();
  verb->add_option("--kv", typed->both, "How keys and values will be cached, as run's --kv" + planned)
      ->check(CLI::IsMember(names))
      ->capture_default_str();
  verb->add_option("--kv-keys", typed->keys, "Bits of cached keys (default: as --kv)")
      ->check(CLI::IsMember(bits));
  verb->add_option("--kv-values", typed->values, "Bits of cached values (default: as --kv)")
      ->check(CLI::IsMember(bits));
  verb->parse_complete_callback([typed, &need] {
    set_cache(typed->of_keys(), need.plans_keys, need.cache.keys);
    set_cache(typed->of_values(), need.plans_values, need.cache.values);
    if (!need.plans_cache() && !need.cache.is_valid())
      throw CLI::ValidationError("--kv",
                                 "expected 3, 4, 5, 6, 8 or 16 bits of keys and of values, or f32, bf16 or "
                                 "int8 of both");
  });
}

Result<plan::Budget> byte_budget_of(const PlanArguments& args, const profile::Sensitivity& sensitivity) {
  OPTIQ_TRY(const auto memory, memory_bytes(args));
  if (memory) return plan::memory_budget(sensitivity, *memory, args.need);
  if (args.need.plans_cache())
    return fail(ErrorCode::usage, "--kv auto: expected --device or --memory, which the cache is part of");
  if (args.size) {
    OPTIQ_TRY(const auto bytes, parse_bytes(*args.size));
    return plan::size_budget(bytes);
  }
  if (args.reduce) {
    OPTIQ_TRY(const double fraction, parse_fraction(*args.reduce));
    return plan::reduce_budget(sensitivity, fraction);
  }
  return plan::bits_per_weight_budget(sensitivity, args.bits_per_weight);
}

}  // namespace

void add_profile_options(CLI::App* verb, ProfileArguments& args) {
  verb->add_option(
          "--calibration", args.calibration,
          "self (the default), or a .txt, .jsonl or .parquet file; several, each as NAME:WEIGHT, share "
          "the sequences by weight")
      ->allow_extra_args(false);
  add_measurement_options(verb, args);
}

void add_measurement_options(CLI::App* verb, ProfileArguments& args) {
  verb->add_option("--sequences", args.source.sequences, "Calibration sequences")->capture_default_str();
  verb->add_option("--tokens", args.source.tokens, "Tokens of each sequence")->capture_default_str();
  verb->add_option("--seed", args.source.seed, "Seed of sampling and of the choice of windows")
      ->capture_default_str();
  verb->add_option("--estimator", args.estimator, "How sensitivity is measured")
      ->check(CLI::IsMember({"fisher", "kl", "mse"}))
      ->capture_default_str();
  verb->add_option("--encoder", args.encoder, "Encoder that will write the weights")
      ->check(CLI::IsMember({"rtn", "range", "gptq"}))
      ->capture_default_str();
  verb->add_option("--label-draws", args.label_draws, "fisher: label sets drawn for each sequence")
      ->capture_default_str();
  verb->add_option("--compute", args.compute, "Matrix products of the measurement")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  verb->add_option("--bits", args.bits, "Bits to measure (default: all)")->delimiter(',');
  verb->add_option("--groups", args.groups, "Group sizes to measure (default: all)")->delimiter(',');
}

Result<calibrate::Source> calibration_source(const ProfileArguments& args) {
  calibrate::Source source = args.source;
  if (args.calibration.empty()) return source;
  source.parts.clear();
  for (const std::string& text : args.calibration) {
    OPTIQ_TRY(calibrate::Part part, calibrate::parse_part(text));
    source.parts.push_back(std::move(part));
  }
  return source;
}

Result<profile::Options> profile_options(const ProfileArguments& args) {
  profile::Options options;
  OPTIQ_TRY(options.estimator, profile::parse_estimator(args.estimator));
  OPTIQ_TRY(options.encoder, quant::parse_encoder(args.encoder));
  options.label_draws = args.label_draws;
  options.caches = args.caches;
  options.compute = args.compute == "f32" ? kernels::Compute::f32 : kernels::Compute::bf16;
  const auto wanted = [](const std::vector<int>& list, int value) {
    return list.empty() || std::ranges::find(list, value) != list.end();
  };
  for (const quant::Format format : profile::all_formats()) {
    if (wanted(args.bits, format.bits) && wanted(args.groups, format.group_size))
      options.formats.push_back(format);
  }
  if (options.formats.empty()) {
    return fail(ErrorCode::usage, "--bits and --groups: expected some of 2,3,4,5,6,8 and of 32,64,128");
  }
  return options;
}

Result<std::optional<std::uint64_t>> memory_bytes(const PlanArguments& args) {
  std::optional<std::uint64_t> bytes;
  if (args.memory) {
    OPTIQ_TRY(bytes, parse_bytes(*args.memory));
  }
  if (args.device) {
    OPTIQ_TRY(const auto device, plan::parse_device(*args.device));
    bytes = device.usable_bytes;
  }
  return bytes;
}

void add_plan_options(CLI::App* verb, PlanArguments& args, PlanOptionSet set) {
  auto* budget = verb->add_option_group("budget", "Exactly one of these");
  budget->add_option("--memory", args.memory, "Memory for weights, KV cache and scratch, such as 8GB");
  budget->add_option("--device", args.device,
                     "The memory that a machine gives: mac-8gb, pc-16gb, gpu-24gb (any size) or this");
  budget->add_option("--size", args.size, "Size of the weight files, such as 4.2GB");
  budget->add_option("--bpw", args.bits_per_weight, "File bits over parameters, such as 4.5");
  budget->add_option("--reduce", args.reduce, "Less than at 16 bits, such as 70%");
  budget->require_option(1);
  verb->add_option("--context", args.need.context_tokens, "Tokens of KV cache to have memory for")
      ->capture_default_str();
  verb->add_option("--batch", args.need.sequences, "Sequences of --context tokens, decoded side by side")
      ->capture_default_str();
  add_cache_need(verb, args.need, set.planned_cache);
  auto* speed = verb->add_option("--tokens-per-second", args.tokens_per_second,
                                 "Decode no slower than this by --latency, such as 40");
  auto* latency =
      verb->add_option("--latency", args.latency, "latency.json of optiq bench --kernels on the machine");
  speed->needs(latency);
  latency->needs(speed);
  verb->add_option("--pin", args.pins, "PATTERN=FORMAT, such as 'model.layers.0.*=8x64' or 'lm_head=dense'");
  verb->add_option("--min-bits", args.rules.least_bits, "No module below");
  verb->add_option("--max-bits", args.rules.most_bits, "No module above");
  verb->add_flag("--allow-dense", args.rules.allow_dense, "Modules may stay unquantized");
  if (!set.formats) return;
  verb->add_option("--bits", args.rules.bits, "Bits to choose from")->delimiter(',');
  verb->add_option("--groups", args.rules.group_sizes, "Group sizes to choose from")->delimiter(',');
}

Result<plan::Budget> budget_of(const PlanArguments& args, const profile::Sensitivity& sensitivity) {
  OPTIQ_TRY(plan::Budget budget, byte_budget_of(args, sensitivity));
  if (!args.latency) return budget;
  if (!(args.tokens_per_second > 0 && std::isfinite(args.tokens_per_second))) {
    return fail(ErrorCode::usage, "--tokens-per-second {}: expected a positive number",
                args.tokens_per_second);
  }
  OPTIQ_TRY(plan::LatencyTable table, plan::read_latency(*args.latency));
  budget.latency = {std::move(table), 1 / args.tokens_per_second};
  return budget;
}

std::string latency_line(const plan::Plan& plan) {
  if (!plan.latency) return "";
  return fmt::format("{:.4g} tokens per second predicted ({:.4g} asked for)\n",
                     plan.latency->tokens_per_second(), 1 / plan.latency->limit_seconds);
}

std::string cache_line(const plan::Plan& plan) {
  if (!plan.cache) return "";
  return fmt::format("KV cache {:.2f} bits a value, {:.5f} ± {:.5f} of the predicted KL\n",
                     plan.cache->bits(), plan.cache->predicted_kl, plan.cache->predicted_kl_standard_error);
}

Result<plan::Rules> rules_of(const PlanArguments& args) {
  plan::Rules rules = args.rules;
  for (const std::string& text : args.pins) {
    OPTIQ_TRY(plan::Pin pin, plan::parse_pin(text));
    rules.pins.push_back(std::move(pin));
  }
  return rules;
}

Json plan_summary(const plan::Plan& plan) {
  Json modules = Json::array();
  for (const auto& module : plan.modules) {
    modules.push_back({{"name", module.name},
                       {"bits", module.format.bits},
                       {"group_size", module.format.group_size},
                       {"bytes", module.bytes},
                       {"cost", module.cost}});
  }
  Json json{{"bytes", plan.bytes},
            {"parameters", plan.model.parameters},
            {"budget_bytes", plan.budget_bytes},
            {"bits_per_weight", plan.bits_per_weight},
            {"predicted_kl", plan.predicted_kl},
            {"predicted_kl_stderr", plan.predicted_kl_standard_error},
            {"gap", plan.gap},
            {"seconds", plan.seconds}};
  if (plan.memory) {
    json["memory"] = {{"total_bytes", plan.memory->total()},
                      {"weight_bytes", plan.memory->weight_bytes},
                      {"cache_bytes", plan.memory->cache_bytes},
                      {"scratch_bytes", plan.memory->scratch_bytes},
                      {"context_tokens", plan.memory->context_tokens}};
  }
  if (plan.cache) {
    json["kv"] = {{"bits", plan.cache->bits()},
                  {"predicted_kl", plan.cache->predicted_kl},
                  {"predicted_kl_stderr", plan.cache->predicted_kl_standard_error},
                  {"blocks", Json::array()}};
    for (const auto& block : plan.cache->blocks) {
      json["kv"]["blocks"].push_back(
          {{"keys", plan::cache_bits(block.keys)}, {"values", plan::cache_bits(block.values)}});
    }
  }
  if (plan.latency) {
    json["latency"] = {{"seconds_per_token", plan.latency->seconds_per_token},
                       {"limit_seconds", plan.latency->limit_seconds},
                       {"tokens_per_second", plan.latency->tokens_per_second()}};
  }
  json["modules"] = std::move(modules);
  return json;
}

}  // namespace optiq::apps
