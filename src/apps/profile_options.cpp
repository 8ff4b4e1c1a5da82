#include "profile_options.h"

#include <cmath>

#include "engine_options.h"
#include "optiq/base/units.h"

namespace optiq::apps {
namespace {

Result<plan::Budget> byte_budget_of(const PlanArguments& args, const profile::Sensitivity& sensitivity) {
  if (args.size) {
    OPTIQ_TRY(const auto bytes, parse_bytes(*args.size));
    return plan::size_budget(bytes);
  }
  if (args.memory) {
    OPTIQ_TRY(const auto bytes, parse_bytes(*args.memory));
    return plan::memory_budget(sensitivity, bytes, args.need);
  }
  if (args.device) {
    OPTIQ_TRY(const auto device, plan::parse_device(*args.device));
    return plan::memory_budget(sensitivity, device.usable_bytes, args.need);
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

void add_memory_need(CLI::App* verb, plan::MemoryNeed& need) {
  verb->add_option("--context", need.context_tokens, "Tokens of KV cache to have memory for")
      ->capture_default_str();
  verb->add_option("--batch", need.sequences, "Sequences of --context tokens, decoded side by side")
      ->capture_default_str();
  add_cache_options(verb, need.cache);
}

void add_plan_options(CLI::App* verb, PlanArguments& args, bool with_formats) {
  auto* budget = verb->add_option_group("budget", "Exactly one of these");
  budget->add_option("--memory", args.memory, "Memory for weights, KV cache and scratch, such as 8GB");
  budget->add_option("--device", args.device,
                     "The memory that a machine gives: mac-8gb, pc-16gb, gpu-24gb (any size) or this");
  budget->add_option("--size", args.size, "Size of the weight files, such as 4.2GB");
  budget->add_option("--bpw", args.bits_per_weight, "File bits over parameters, such as 4.5");
  budget->add_option("--reduce", args.reduce, "Less than at 16 bits, such as 70%");
  budget->require_option(1);
  add_memory_need(verb, args.need);
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
  if (!with_formats) return;
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
  if (plan.latency) {
    json["latency"] = {{"seconds_per_token", plan.latency->seconds_per_token},
                       {"limit_seconds", plan.latency->limit_seconds},
                       {"tokens_per_second", plan.latency->tokens_per_second()}};
  }
  json["modules"] = std::move(modules);
  return json;
}

}  // namespace optiq::apps
