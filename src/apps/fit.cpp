#include <algorithm>

#include "optiq/base/units.h"
#include "optiq/plan/planner.h"
#include "optiq/report/table.h"
#include "verbs.h"

namespace optiq::apps {
namespace {

struct Arguments {
  std::string model, device = "this", sensitivity;
  std::int64_t sequences = 1;
};

/// Of --kv's, what a user would choose between.
struct CacheChoice {
  const char* name;
  kernels::cpu::CacheStorage storage;
};
constexpr CacheChoice kCaches[] = {{"f16", kernels::cpu::CacheStorage::f16},
                                   {"8", kernels::cpu::CacheStorage::packed8},
                                   {"4", kernels::cpu::CacheStorage::packed4}};

/// Every context with every cache; with one that is planned, too, where the profile prices it.
std::vector<plan::MemoryNeed> needs_of(const model::Model& model, std::int64_t sequences, bool plans_cache) {
  std::vector<plan::MemoryNeed> needs;
  for (const std::int64_t context : plan::context_lengths(model.config().max_positions)) {
    for (const CacheChoice& choice : kCaches) needs.push_back({context, sequences, choice.storage});
    if (plans_cache) needs.push_back({context, sequences, {}, true, true});
  }
  return needs;
}

std::string cache_name(const plan::MemoryNeed& need) {
  if (need.plans_cache()) return "auto";
  return std::ranges::find(kCaches, need.cache.keys, &CacheChoice::storage)->name;
}

/// What a model that is quantized already, or one that is still to be, can do within a line's bytes.
class Judge {
 public:
  Judge(const model::Model& model, const plan::Device& device,
        std::optional<profile::Sensitivity> sensitivity)
      : sensitivity_(std::move(sensitivity)),
        device_bytes_(device.usable_bytes),
        file_bytes_(model.checkpoint().file_bytes()) {
    quantized_ =
        std::ranges::any_of(model.modules(), [&](const auto& m) { return !model.format(m.name).is_dense(); });
  }

  /// Whether a planned cache is one of the choices.
  [[nodiscard]] bool plans_cache() const {
    return sensitivity_ && !sensitivity_->caches.empty() && !quantized_;
  }

  /// Fills `json` and gives the words for it.
  Result<std::string> verdict(const plan::ContextFit& fit, Json& json) const {
    if (!fit.need.plans_cache() && file_bytes_ <= fit.weight_bytes) {
      json["runs"] = "as_it_is";
      return "as it is";
    }
    json["runs"] = "no";
    if (quantized_) return "does not fit";
    if (sensitivity_) return planned(fit, json);
    if (fit.bits_per_weight < kLeastBits) return "does not fit";
    json["runs"] = "quantized";
    return fmt::format("at {:.2f} bits per weight", fit.bits_per_weight);
  }

 private:
  /// 2 bits in groups of 128, with scales and biases of 16 bits.
  static constexpr double kLeastBits = 2.25;

  /// Without a search on interactions, which would take seconds a line.
  Result<std::string> planned(const plan::ContextFit& fit, Json& json) const {
    OPTIQ_TRY(const auto plans, plan::context_plans(*sensitivity_, device_bytes_, fit.need,
                                                    {fit.need.context_tokens}, {}, {.interactions = false}));
    const std::optional<plan::Plan>& plan = plans.front().plan;
    if (!plan) {
      if (fit.need.plans_cache()) json.update(Json{{"weight_bytes", 0u}, {"bits_per_weight", 0}});
      return "does not fit";
    }
    json["runs"] = "quantized";
    json["predicted_kl"] = plan->predicted_kl;
    if (fit.need.plans_cache()) {
      json["weight_bytes"] = plan->budget_bytes;
      json["bits_per_weight"] = plan->bits_per_weight;
      json["cache_bytes"] = plan->memory->cache_bytes;
      json["kv_bits"] = plan->cache->bits();
    }
    return fmt::format("at {:.2f} bits per weight{}, predicted KL {:.4f}", plan->bits_per_weight,
                       plan->cache ? fmt::format(", {:.2f} a cached value", plan->cache->bits()) : "",
                       plan->predicted_kl);
  }

  std::optional<profile::Sensitivity> sensitivity_;
  std::uint64_t device_bytes_;
  std::uint64_t file_bytes_;
  bool quantized_ = false;
};

Status fit_model(const Arguments& args, Console& console) {
  OPTIQ_TRY(const auto device, plan::parse_device(args.device));
  OPTIQ_TRY(const auto model, model::Model::open(args.model));
  std::optional<profile::Sensitivity> sensitivity;
  if (!args.sensitivity.empty()) {
    OPTIQ_TRY(sensitivity, profile::read_sensitivity(args.sensitivity));
  }
  const std::int64_t parameters = model::parameter_count(model);
  const Judge judge(model, device, std::move(sensitivity));
  OPTIQ_TRY(const auto fits, plan::fits(plan::memory_shape(model), parameters, device,
                                        needs_of(model, args.sequences, judge.plans_cache())));
  Json lines = Json::array();
  std::vector<std::vector<std::string>> rows;
  for (const plan::ContextFit& fit : fits) {
    Json line{{"context_tokens", fit.need.context_tokens},
              {"sequences", fit.need.sequences},
              {"kv", cache_name(fit.need)},
              {"cache_bytes", fit.memory.cache_bytes},
              {"weight_bytes", fit.weight_bytes},
              {"bits_per_weight", fit.bits_per_weight}};
    OPTIQ_TRY(const auto verdict, judge.verdict(fit, line));
    const auto bytes_of = [&](const char* key) { return format_bytes(line[key].get<std::uint64_t>()); };
    rows.push_back({std::to_string(fit.need.context_tokens), cache_name(fit.need), bytes_of("cache_bytes"),
                    bytes_of("weight_bytes"), verdict});
    lines.push_back(std::move(line));
  }
  using report::Align;
  console.print(
      fmt::format("{}: {} of memory, {} for a model ({})\n{}: {} parameters, {} of weight files\n\n{}",
                  device.name, format_bytes(device.memory_bytes), format_bytes(device.usable_bytes),
                  device.reason, args.model, parameters, format_bytes(model.checkpoint().file_bytes()),
                  report::format_table({{"context", Align::right},
                                        {"KV"},
                                        {"KV cache", Align::right},
                                        {"left for weights", Align::right},
                                        {"runs"}},
                                       rows)));
  console.print_json({{"model", args.model},
                      {"parameters", parameters},
                      {"file_bytes", model.checkpoint().file_bytes()},
                      {"device",
                       {{"name", device.name},
                        {"memory_bytes", device.memory_bytes},
                        {"usable_bytes", device.usable_bytes}}},
                      {"fits", std::move(lines)}});
  return {};
}

}  // namespace

void add_fit(VerbTable& verbs) {
  auto args = std::make_shared<Arguments>();
  CLI::App* verb = verbs.add("fit", "What of a model can run on a machine, by length of context");
  verb->add_option("model", args->model, "Model folder, full-precision or quantized")->required();
  verb->add_option("--device", args->device, "mac-8gb, pc-16gb, gpu-24gb (any size) or this")
      ->capture_default_str();
  verb->add_option("--sensitivity", args->sensitivity, "sensitivity.json: says the loss too");
  verb->add_option("--batch", args->sequences, "Sequences decoded side by side")->capture_default_str();
  verbs.on_chosen(verb, [args](Console& console) { return fit_model(*args, console); });
}

}  // namespace optiq::apps
