#include <algorithm>
#include <cmath>
#include <map>
#include <unordered_set>

#include "optiq/base/file.h"
#include "optiq/base/text.h"
#include "optiq/io/checkpoint.h"
#include "optiq/plan/memory.h"
#include "optiq/plan/plan.h"

namespace optiq::plan {
namespace {

constexpr std::string_view kFormat = "optiq-plan";
/// Of the member "kv".
constexpr std::int64_t kCacheVersion = 1;

void append_tensors(const PlannedModule& module, DType dtype, std::vector<io::TensorSpec>& tensors) {
  const std::int64_t out = module.out_features;
  if (module.format.is_dense()) {
    tensors.push_back({module.name + ".weight", dtype, {out, module.in_features}});
    return;
  }
  const std::int64_t words = quant::packed_row_words(module.in_features, module.format.bits);
  const std::int64_t groups = module.in_features / module.format.group_size;
  tensors.push_back({module.name + ".weight", DType::u32, {out, words}});
  tensors.push_back({module.name + ".scales", dtype, {out, groups}});
  tensors.push_back({module.name + ".biases", dtype, {out, groups}});
}

Json module_to_json(const PlannedModule& module) {
  return {{"name", module.name},
          {"out_features", module.out_features},
          {"in_features", module.in_features},
          {"layer", module.layer},
          {"bits", module.format.bits},
          {"group_size", module.format.group_size},
          {"encoder", quant::encoder_name(module.encoder)},
          {"bytes", module.bytes},
          {"cost", module.cost}};
}

Json memory_to_json(const MemoryUse& memory) {
  return {{"context_tokens", memory.context_tokens},
          {"sequences", memory.sequences},
          {"weight_bytes", memory.weight_bytes},
          {"cache_bytes", memory.cache_bytes},
          {"scratch_bytes", memory.scratch_bytes}};
}

Json token_time_to_json(const TokenTime& latency) {
  return {{"seconds_per_token", latency.seconds_per_token}, {"limit_seconds", latency.limit_seconds}};
}

Json cache_to_json(const CachePlan& cache) {
  Json blocks = Json::array();
  for (const auto& format : cache.blocks)
    blocks.push_back({{"keys", cache_bits(format.keys)}, {"values", cache_bits(format.values)}});
  return {{"version", kCacheVersion},
          {"cost", cache.cost},
          {"predicted_kl", cache.predicted_kl},
          {"predicted_kl_standard_error", cache.predicted_kl_standard_error},
          {"blocks", std::move(blocks)}};
}

Result<kernels::cpu::CacheStorage> read_cache_bits(const JsonReader& reader, std::string_view key) {
  OPTIQ_TRY(const std::int64_t bits, reader.integer(key));
  const auto storage =
      bits < 0 || bits > 16 ? std::nullopt : kernels::cpu::storage_of_bits(static_cast<int>(bits));
  if (!storage)
    return fail(ErrorCode::bad_input, "{}: \"{}\" is {}, expected 3, 4, 5, 6, 8 or 16", reader.where(), key,
                bits);
  return *storage;
}

Result<CachePlan> read_cache(const JsonReader& reader) {
  OPTIQ_TRY(const std::int64_t version, reader.integer("version"));
  if (version != kCacheVersion)
    return fail(ErrorCode::bad_input, "{}: version is {}, expected {}", reader.where(), version,
                kCacheVersion);
  CachePlan cache;
  OPTIQ_TRY(cache.cost, reader.number("cost"));
  OPTIQ_TRY(cache.predicted_kl, reader.number("predicted_kl"));
  OPTIQ_TRY(cache.predicted_kl_standard_error, reader.number("predicted_kl_standard_error"));
  OPTIQ_TRY(const Json* blocks, reader.array("blocks"));
  for (const Json& json : *blocks) {
    const JsonReader block(json, fmt::format("{}: blocks[{}]", reader.where(), cache.blocks.size()));
    OPTIQ_TRY(const auto keys, read_cache_bits(block, "keys"));
    OPTIQ_TRY(const auto values, read_cache_bits(block, "values"));
    cache.blocks.emplace_back(keys, values);
  }
  return cache;
}

Result<std::uint64_t> read_bytes(const JsonReader& reader, std::string_view key) {
  OPTIQ_TRY(const std::int64_t bytes, reader.integer(key));
  if (bytes < 0) return fail(ErrorCode::bad_input, "{}: \"{}\" is {}", reader.where(), key, bytes);
  return static_cast<std::uint64_t>(bytes);
}

Result<MemoryUse> read_memory(const JsonReader& reader) {
  MemoryUse memory;
  OPTIQ_TRY(memory.context_tokens, reader.integer("context_tokens"));
  OPTIQ_TRY(memory.sequences, reader.integer_or("sequences", 1));
  OPTIQ_TRY(memory.weight_bytes, read_bytes(reader, "weight_bytes"));
  OPTIQ_TRY(memory.cache_bytes, read_bytes(reader, "cache_bytes"));
  OPTIQ_TRY(memory.scratch_bytes, read_bytes(reader, "scratch_bytes"));
  return memory;
}

Result<TokenTime> read_token_time(const JsonReader& reader) {
  TokenTime latency;
  OPTIQ_TRY(latency.seconds_per_token, reader.number("seconds_per_token"));
  OPTIQ_TRY(latency.limit_seconds, reader.number("limit_seconds"));
  return latency;
}

Result<PlannedModule> read_module(const JsonReader& reader) {
  PlannedModule module;
  OPTIQ_TRY(module.name, reader.string("name"));
  const JsonReader named(reader.json(), fmt::format("{}: module {}", reader.where(), printable(module.name)));
  OPTIQ_TRY(module.out_features, named.integer("out_features"));
  OPTIQ_TRY(module.in_features, named.integer("in_features"));
  OPTIQ_TRY(module.layer, named.integer("layer"));
  OPTIQ_TRY(module.format, profile::format_from_json(named));
  OPTIQ_TRY(const std::string encoder, named.string("encoder"));
  const auto parsed = quant::parse_encoder(encoder);
  if (!parsed) return fail(ErrorCode::bad_input, "{}: {}", named.where(), parsed.error().message);
  module.encoder = *parsed;
  OPTIQ_TRY(module.bytes, read_bytes(named, "bytes"));
  OPTIQ_TRY(module.cost, named.number("cost"));
  return module;
}

Status check_module(const PlannedModule& module, const Plan& plan, const std::string& where) {
  OPTIQ_CHECK(
      profile::check_matrix(plan.model, module.out_features, module.in_features, module.layer, where));
  if (!module.format.is_dense()) OPTIQ_CHECK(quant::check_format(module.format, module.in_features, where));
  const std::uint64_t bytes =
      quant::module_bytes(module.out_features, module.in_features, module.format, plan.model.dtype);
  if (module.bytes != bytes) {
    return fail(ErrorCode::bad_input, "{}: \"bytes\" is {}, but {} of [{}, {}] takes {}", where, module.bytes,
                quant::to_string(module.format), module.out_features, module.in_features, bytes);
  }
  if (!std::isfinite(module.cost)) return fail(ErrorCode::bad_input, "{}: cost is not finite", where);
  return {};
}

Status check_token_time(const TokenTime& latency, const std::string& where) {
  if (!(latency.seconds_per_token > 0 && std::isfinite(latency.limit_seconds))) {
    return fail(ErrorCode::bad_input, "{}: {} seconds a token of at most {}: expected positive numbers",
                where, latency.seconds_per_token, latency.limit_seconds);
  }
  // The sum of the matrices was limited in picoseconds.
  if (latency.seconds_per_token > latency.limit_seconds * (1 + 1e-9)) {
    return fail(ErrorCode::bad_input, "{}: {} seconds a token exceed the limit of {}", where,
                latency.seconds_per_token, latency.limit_seconds);
  }
  return {};
}

Status check_cache(const CachePlan& cache, const Plan& plan, const std::string& where) {
  const profile::ModelFacts& model = plan.model;
  if (!plan.memory) return fail(ErrorCode::bad_input, "{}: a KV cache without \"memory\"", where);
  if (static_cast<std::int64_t>(cache.blocks.size()) != model.layers) {
    return fail(ErrorCode::bad_input, "{}: formats of {} blocks, but the model has {}", where,
                cache.blocks.size(), model.layers);
  }
  const MemoryShape shape = memory_shape(model);
  const MemoryNeed need{.context_tokens = plan.memory->context_tokens, .sequences = plan.memory->sequences};
  if (const auto sensible = memory_use(shape, need); !sensible)
    return fail(ErrorCode::bad_input, "{}: {}", where, sensible.error().message);
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < cache.blocks.size(); ++i)
    bytes += block_cache_bytes(shape, need, static_cast<std::int64_t>(i), cache.blocks[i]);
  if (bytes != plan.memory->cache_bytes) {
    return fail(ErrorCode::bad_input, "{}: \"cache_bytes\" is {}, but these formats take {}", where,
                plan.memory->cache_bytes, bytes);
  }
  for (const double value : {cache.cost, cache.predicted_kl, cache.predicted_kl_standard_error}) {
    if (!std::isfinite(value))
      return fail(ErrorCode::bad_input, "{}: a predicted figure is not finite", where);
  }
  return {};
}

Status check_figures(const Plan& plan, const std::string& where) {
  for (const double value : {plan.predicted_kl, plan.predicted_kl_standard_error, plan.gap, plan.seconds}) {
    if (!std::isfinite(value))
      return fail(ErrorCode::bad_input, "{}: a predicted figure is not finite", where);
  }
  const double bits = static_cast<double>(plan.bytes) * 8 / static_cast<double>(plan.model.parameters);
  if (!(std::fabs(plan.bits_per_weight - bits) <= 1e-9 * bits)) {
    return fail(ErrorCode::bad_input, "{}: bits_per_weight is {}, but {} bytes of {} parameters make {}",
                where, plan.bits_per_weight, plan.bytes, plan.model.parameters, bits);
  }
  if (plan.budget_bytes != 0 && plan.bytes > plan.budget_bytes) {
    return fail(ErrorCode::bad_input, "{}: {} bytes exceed the budget of {}", where, plan.bytes,
                plan.budget_bytes);
  }
  if (plan.cache) OPTIQ_CHECK(check_cache(*plan.cache, plan, where + ": kv"));
  return plan.latency ? check_token_time(*plan.latency, where + ": latency") : Status{};
}

}  // namespace

int cache_bits(kernels::cpu::CacheStorage storage) {
  const int bits = kernels::cpu::packed_bits(storage);
  return bits > 0 ? bits : static_cast<int>(8 * kernels::cpu::cache_bytes_per_element(storage));
}

double CachePlan::bits() const {
  double sum = 0;
  for (const auto& format : blocks) sum += cache_bits(format.keys) + cache_bits(format.values);
  return blocks.empty() ? 0 : sum / static_cast<double>(2 * blocks.size());
}

std::vector<io::TensorSpec> checkpoint_tensors(const Plan& plan) {
  std::vector<io::TensorSpec> tensors;
  tensors.reserve(plan.modules.size() * 3 + plan.fixed.size());
  std::vector<const PlannedModule*> modules;
  for (const PlannedModule& module : plan.modules) modules.push_back(&module);
  const auto place = [](const PlannedModule* module) {
    return module->layer < 0 ? std::numeric_limits<std::int64_t>::max() : module->layer;
  };
  std::ranges::stable_sort(modules, {}, place);
  for (const PlannedModule* module : modules) append_tensors(*module, plan.model.dtype, tensors);
  tensors.insert(tensors.end(), plan.fixed.begin(), plan.fixed.end());
  return tensors;
}

quant::Format commonest_format(const Plan& plan) {
  std::map<quant::Format, std::int64_t> weights;
  for (const PlannedModule& module : plan.modules) {
    if (!module.format.is_dense()) weights[module.format] += module.out_features * module.in_features;
  }
  std::pair<quant::Format, std::int64_t> best{{16, 0}, 0};
  for (const auto& [format, count] : weights) {
    if (count > best.second) best = {format, count};
  }
  return best.first;
}

std::uint64_t exact_bytes(const Plan& plan) {
  return io::layout_shards(checkpoint_tensors(plan)).total_bytes;
}

Status check_plan(const Plan& plan, const std::string& where) {
  OPTIQ_CHECK(profile::check_model(plan.model, where));
  if (plan.modules.empty()) return fail(ErrorCode::bad_input, "{}: no modules", where);
  for (const PlannedModule& module : plan.modules)
    OPTIQ_CHECK(check_module(module, plan, fmt::format("{}: module {}", where, printable(module.name))));
  OPTIQ_CHECK(profile::check_tensors(checkpoint_tensors(plan), where));
  const std::uint64_t bytes = exact_bytes(plan);
  if (plan.bytes != bytes) {
    return fail(ErrorCode::bad_input, "{}: \"bytes\" is {}, but the checkpoint takes {}", where, plan.bytes,
                bytes);
  }
  return check_figures(plan, where);
}

Json plan_to_json(const Plan& plan) {
  Json json{{"format", kFormat},
            {"version", profile::kFileVersion},
            {"model", profile::model_to_json(plan.model)},
            {"budget_bytes", plan.budget_bytes},
            {"bytes", plan.bytes},
            {"bits_per_weight", plan.bits_per_weight},
            {"predicted_kl", plan.predicted_kl},
            {"predicted_kl_standard_error", plan.predicted_kl_standard_error},
            {"gap", plan.gap},
            {"seconds", plan.seconds}};
  if (plan.memory) json["memory"] = memory_to_json(*plan.memory);
  if (plan.cache) json["kv"] = cache_to_json(*plan.cache);
  if (plan.latency) json["latency"] = token_time_to_json(*plan.latency);
  if (!plan.importance.empty()) json["importance"] = plan.importance;
  Json modules = Json::array();
  for (const PlannedModule& module : plan.modules) modules.push_back(module_to_json(module));
  json["modules"] = std::move(modules);
  json["fixed"] = profile::tensors_to_json(plan.fixed);
  return json;
}

Result<Plan> plan_from_json(const Json& json, const std::string& where) {
  const JsonReader reader(json, where);
  OPTIQ_CHECK(profile::check_file_kind(reader, kFormat));
  Plan plan;
  OPTIQ_TRY(const JsonReader model, reader.object("model"));
  OPTIQ_TRY(plan.model, profile::model_from_json(model));
  OPTIQ_TRY(plan.budget_bytes, read_bytes(reader, "budget_bytes"));
  OPTIQ_TRY(plan.bytes, read_bytes(reader, "bytes"));
  OPTIQ_TRY(plan.bits_per_weight, reader.number("bits_per_weight"));
  OPTIQ_TRY(plan.predicted_kl, reader.number("predicted_kl"));
  OPTIQ_TRY(plan.predicted_kl_standard_error, reader.number("predicted_kl_standard_error"));
  OPTIQ_TRY(plan.gap, reader.number("gap"));
  OPTIQ_TRY(plan.seconds, reader.number("seconds"));
  if (reader.has("memory")) {
    OPTIQ_TRY(const JsonReader memory, reader.object("memory"));
    OPTIQ_TRY(plan.memory, read_memory(memory));
  }
  if (reader.has("kv")) {
    OPTIQ_TRY(const JsonReader cache, reader.object("kv"));
    OPTIQ_TRY(plan.cache, read_cache(cache));
  }
  if (reader.has("latency")) {
    OPTIQ_TRY(const JsonReader latency, reader.object("latency"));
    OPTIQ_TRY(plan.latency, read_token_time(latency));
  }
  OPTIQ_TRY(plan.importance, reader.string_or("importance", ""));
  OPTIQ_TRY(const Json* modules, reader.array("modules"));
  for (const Json& module_json : *modules) {
    const std::string here = fmt::format("{}: modules[{}]", where, plan.modules.size());
    OPTIQ_TRY(PlannedModule module, read_module(JsonReader(module_json, here)));
    plan.modules.push_back(std::move(module));
  }
  OPTIQ_TRY(plan.fixed, profile::tensors_from_json(reader, "fixed"));
  OPTIQ_CHECK(check_plan(plan, where));
  return plan;
}

Result<Plan> read_plan(const std::filesystem::path& path) {
  OPTIQ_TRY(const Json json, read_json_file(path));
  return plan_from_json(json, path.string());
}

Status write_plan(const std::filesystem::path& path, const Plan& plan) {
  OPTIQ_CHECK(check_plan(plan, path.string()));
  return write_file_atomically(path, format_json(plan_to_json(plan)));
}

}  // namespace optiq::plan
