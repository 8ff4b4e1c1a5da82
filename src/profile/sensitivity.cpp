#include "optiq/profile/sensitivity.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <set>
#include <unordered_set>

#include "optiq/base/file.h"
#include "optiq/base/text.h"

namespace optiq::profile {
namespace {

constexpr std::string_view kFormat = "optiq-sensitivity";
/// Of the member "kv".
constexpr std::int64_t kCacheVersion = 1;
constexpr std::array<std::string_view, 2> kCacheParts{"keys", "values"};
constexpr std::array<std::string_view, 3> kEstimatorNames{"fisher", "kl", "mse"};

/// The double with the shortest decimal form that reads back as `value`: keeps the file a third smaller than
/// printing every digit of the widened float.
double shortest_double(float value) {
  const double candidate = std::stod(fmt::format("{}", value));
  const bool exact =
      std::fabs(candidate) <= std::numeric_limits<float>::max() && static_cast<float>(candidate) == value;
  return exact ? candidate : static_cast<double>(value);
}

Json option_to_json(const FormatCost& option) {
  Json json{{"bits", option.format.bits},
            {"group_size", option.format.group_size},
            {"cost", option.cost},
            {"standard_error", option.standard_error}};
  if (option.projections.empty()) return json;
  Json values = Json::array();
  for (const float value : option.projections) values.push_back(shortest_double(value));
  json["projections"] = std::move(values);
  return json;
}

Json module_to_json(const ModuleSensitivity& module) {
  Json options = Json::array();
  for (const FormatCost& option : module.options) options.push_back(option_to_json(option));
  return {{"name", module.name},
          {"out_features", module.out_features},
          {"in_features", module.in_features},
          {"layer", module.layer},
          {"options", std::move(options)}};
}

Result<std::vector<float>> read_projections(const JsonReader& reader) {
  std::vector<float> values;
  if (!reader.has("projections")) return values;
  OPTIQ_TRY(const Json* list, reader.array("projections"));
  values.reserve(list->size());
  for (const Json& value : *list) {
    if (!value.is_number() || !(std::fabs(value.get<double>()) <= std::numeric_limits<float>::max()))
      return fail(ErrorCode::bad_input, "{}: \"projections\": {} is no float", reader.where(),
                  printable(value.dump()));
    values.push_back(static_cast<float>(value.get<double>()));
  }
  return values;
}

Result<FormatCost> read_option(const JsonReader& reader) {
  FormatCost option;
  OPTIQ_TRY(option.format, format_from_json(reader));
  OPTIQ_TRY(option.cost, reader.number("cost"));
  OPTIQ_TRY(option.standard_error, reader.number("standard_error"));
  OPTIQ_TRY(option.projections, read_projections(reader));
  return option;
}

Result<std::vector<FormatCost>> read_options(const JsonReader& reader, std::string_view key) {
  OPTIQ_TRY(const Json* list, reader.array(key));
  std::vector<FormatCost> options;
  for (const Json& json : *list) {
    const JsonReader option(json, fmt::format("{}: {}[{}]", reader.where(), key, options.size()));
    OPTIQ_TRY(FormatCost cost, read_option(option));
    options.push_back(std::move(cost));
  }
  return options;
}

Result<ModuleSensitivity> read_module(const JsonReader& reader) {
  ModuleSensitivity module;
  OPTIQ_TRY(module.name, reader.string("name"));
  const JsonReader named(reader.json(), fmt::format("{}: module {}", reader.where(), printable(module.name)));
  OPTIQ_TRY(module.out_features, named.integer("out_features"));
  OPTIQ_TRY(module.in_features, named.integer("in_features"));
  OPTIQ_TRY(module.layer, named.integer("layer"));
  OPTIQ_TRY(module.options, read_options(named, "options"));
  return module;
}

Json caches_to_json(const std::vector<CacheSensitivity>& caches) {
  Json blocks = Json::array();
  for (const CacheSensitivity& cache : caches) {
    if (cache.part == kernels::cpu::CachePart::keys) blocks.push_back(Json::object());
    Json options = Json::array();
    for (const FormatCost& option : cache.options) options.push_back(option_to_json(option));
    blocks.back()[std::string(kCacheParts[static_cast<std::size_t>(cache.part)])] = std::move(options);
  }
  return {{"version", kCacheVersion}, {"blocks", std::move(blocks)}};
}

Result<std::vector<CacheSensitivity>> read_caches(const JsonReader& reader) {
  OPTIQ_TRY(const std::int64_t version, reader.integer("version"));
  if (version != kCacheVersion)
    return fail(ErrorCode::bad_input, "{}: version is {}, expected {}", reader.where(), version,
                kCacheVersion);
  OPTIQ_TRY(const Json* blocks, reader.array("blocks"));
  std::vector<CacheSensitivity> caches;
  for (std::size_t layer = 0; layer < blocks->size(); ++layer) {
    const JsonReader block((*blocks)[layer], fmt::format("{}: blocks[{}]", reader.where(), layer));
    for (std::size_t part = 0; part < kCacheParts.size(); ++part) {
      OPTIQ_TRY(auto options, read_options(block, kCacheParts[part]));
      caches.push_back(
          {static_cast<std::int64_t>(layer), static_cast<kernels::cpu::CachePart>(part), std::move(options)});
    }
  }
  return caches;
}

Result<std::vector<calibrate::Part>> read_mixture(const JsonReader& reader) {
  std::vector<calibrate::Part> mixture;
  if (!reader.has("mixture")) return mixture;
  OPTIQ_TRY(const Json* list, reader.array("mixture"));
  for (const Json& json : *list) {
    const JsonReader part(json, fmt::format("{}: mixture[{}]", reader.where(), mixture.size()));
    OPTIQ_TRY(std::string name, part.string("source"));
    OPTIQ_TRY(const double weight, part.number("weight"));
    mixture.push_back({std::move(name), weight});
  }
  return mixture;
}

Json calibration_to_json(const Calibration& calibration) {
  Json json{{"source", calibration.source},
            {"sequences", calibration.sequences},
            {"tokens", calibration.tokens},
            {"seed", calibration.seed},
            {"label_draws", calibration.label_draws}};
  for (const calibrate::Part& part : calibration.mixture)
    json["mixture"].push_back({{"source", part.name}, {"weight", part.weight}});
  return json;
}

Result<Calibration> read_calibration(const JsonReader& reader) {
  Calibration calibration;
  OPTIQ_TRY(calibration.source, reader.string("source"));
  OPTIQ_TRY(calibration.sequences, reader.integer("sequences"));
  OPTIQ_TRY(calibration.tokens, reader.integer("tokens"));
  OPTIQ_TRY(const std::int64_t seed, reader.integer("seed"));
  calibration.seed = static_cast<std::uint64_t>(seed);
  OPTIQ_TRY(calibration.label_draws, reader.integer("label_draws"));
  OPTIQ_TRY(calibration.mixture, read_mixture(reader));
  return calibration;
}

Status check_projections(const FormatCost& option, std::size_t samples, const std::string& where) {
  if (option.projections.size() != samples) {
    return fail(ErrorCode::bad_input, "{}: {} projections, expected {}", where, option.projections.size(),
                samples);
  }
  for (const float value : option.projections) {
    if (!std::isfinite(value)) return fail(ErrorCode::bad_input, "{}: a projection is not finite", where);
  }
  return {};
}

Status check_cost(const FormatCost& option, std::size_t samples, const std::string& where) {
  if (!std::isfinite(option.cost))
    return fail(ErrorCode::bad_input, "{}: cost is {}, expected a finite number", where, option.cost);
  if (!std::isfinite(option.standard_error) || option.standard_error < 0) {
    return fail(ErrorCode::bad_input, "{}: standard_error is {}, expected a finite number ≥ 0", where,
                option.standard_error);
  }
  return check_projections(option, samples, where);
}

Status check_option(const FormatCost& option, const ModuleSensitivity& module, std::size_t samples,
                    const std::string& where) {
  if (option.format.is_dense()) return fail(ErrorCode::bad_input, "{}: a dense format has no cost", where);
  OPTIQ_CHECK(quant::check_format(option.format, module.in_features, where));
  return check_cost(option, samples, where);
}

Status check_module(const ModuleSensitivity& module, const Sensitivity& all, const std::string& where) {
  OPTIQ_CHECK(check_matrix(all.model, module.out_features, module.in_features, module.layer, where));
  if (module.options.empty()) return fail(ErrorCode::bad_input, "{}: no options", where);
  std::set<quant::Format> seen;
  for (const FormatCost& option : module.options) {
    const std::string here = fmt::format("{}: option {}", where, quant::to_string(option.format));
    OPTIQ_CHECK(check_option(option, module, all.samples(), here));
    if (!seen.insert(option.format).second) return fail(ErrorCode::bad_input, "{} is listed twice", here);
  }
  return {};
}

/// Keys and values of every block, each at rising bits.
Status check_caches(const Sensitivity& all, const std::string& where) {
  if (all.caches.empty()) return {};
  if (static_cast<std::int64_t>(all.caches.size()) != 2 * all.model.layers) {
    return fail(ErrorCode::bad_input, "{}: kv: expected keys and values of {} blocks, got {} of both", where,
                all.model.layers, all.caches.size());
  }
  for (std::size_t i = 0; i < all.caches.size(); ++i) {
    const CacheSensitivity& cache = all.caches[i];
    const std::string here = fmt::format("{}: kv: block {}: {}", where, i / 2, kCacheParts[i % 2]);
    if (cache.layer != static_cast<std::int64_t>(i / 2) || static_cast<std::size_t>(cache.part) != i % 2)
      return fail(ErrorCode::bad_input, "{}: out of order", here);
    if (cache.options.empty()) return fail(ErrorCode::bad_input, "{}: no options", here);
    int last = 0;
    for (const FormatCost& option : cache.options) {
      const auto [bits, group] = option.format;
      if (std::ranges::find(kCacheBits, bits) == std::end(kCacheBits) ||
          group != static_cast<int>(kernels::cpu::kCacheGroup) || bits <= last) {
        return fail(ErrorCode::bad_input,
                    "{}: {} bits in groups of {}: expected some of 3, 4, 5, 6 and 8, rising, in groups of {}",
                    here, bits, group, kernels::cpu::kCacheGroup);
      }
      last = bits;
      OPTIQ_CHECK(check_cost(option, all.samples(), fmt::format("{}: {} bits", here, bits)));
    }
  }
  return {};
}

Status check_calibration(const Sensitivity& all, const std::string& where) {
  const Calibration& calibration = all.calibration;
  if (calibration.sequences < 1 || calibration.tokens < 1 || calibration.label_draws < 0) {
    return fail(ErrorCode::bad_input, "{}: calibration: {} sequences of {} tokens, {} label draws", where,
                calibration.sequences, calibration.tokens, calibration.label_draws);
  }
  if (calibration.seed > static_cast<std::uint64_t>(INT64_MAX))
    return fail(ErrorCode::bad_input, "{}: calibration: seed {} is too large", where, calibration.seed);
  if (!calibration.mixture.empty()) {
    const auto shares = calibrate::share_out(calibration.mixture, calibration.sequences);
    if (!shares || shares->size() < 2) {
      return fail(ErrorCode::bad_input, "{}: calibration: mixture: {}", where,
                  shares ? "expected several sources" : shares.error().message);
    }
  }
  if (!(std::fabs(all.half_split_spearman) <= 1)) {
    return fail(ErrorCode::bad_input, "{}: half_split_spearman is {}, expected -1 to 1", where,
                all.half_split_spearman);
  }
  if (!std::isfinite(all.projection_scale) || all.projection_scale < 0 ||
      (all.samples() > 0 && all.projection_scale == 0)) {
    return fail(ErrorCode::bad_input, "{}: projection_scale is {}, expected a positive number", where,
                all.projection_scale);
  }
  return {};
}

}  // namespace

std::string_view estimator_name(Estimator estimator) {
  return kEstimatorNames[static_cast<std::size_t>(estimator)];
}

Result<Estimator> parse_estimator(std::string_view name) {
  for (std::size_t i = 0; i < kEstimatorNames.size(); ++i) {
    if (kEstimatorNames[i] == name) return static_cast<Estimator>(i);
  }
  return fail(ErrorCode::bad_input, "estimator \"{}\": expected fisher, kl or mse", printable(name));
}

std::vector<calibrate::Part> Calibration::parts() const {
  return mixture.empty() ? std::vector{calibrate::Part{source}} : mixture;
}

std::size_t Sensitivity::samples() const {
  if (modules.empty() || modules.front().options.empty()) return 0;
  return modules.front().options.front().projections.size();
}

calibrate::Source seen_source(const Calibration& calibration, calibrate::Source wanted) {
  if (wanted.parts != calibration.parts()) return wanted;
  wanted.sequences = calibration.sequences;
  wanted.tokens = calibration.tokens;
  wanted.seed = calibration.seed;
  return wanted;
}

Status check_sensitivity(const Sensitivity& sensitivity, const std::string& where) {
  OPTIQ_CHECK(check_model(sensitivity.model, where));
  OPTIQ_CHECK(check_tensors(sensitivity.fixed, where + ": fixed"));
  if (sensitivity.modules.empty()) return fail(ErrorCode::bad_input, "{}: no modules", where);
  OPTIQ_CHECK(check_calibration(sensitivity, where));
  if ((sensitivity.samples() > 0) != (sensitivity.estimator == Estimator::fisher)) {
    return fail(ErrorCode::bad_input, "{}: estimator {} with {} projections an option", where,
                estimator_name(sensitivity.estimator), sensitivity.samples());
  }
  std::unordered_set<std::string_view> names;
  for (const ModuleSensitivity& module : sensitivity.modules) {
    const std::string here = fmt::format("{}: module {}", where, printable(module.name));
    if (module.name.empty() || !names.insert(module.name).second)
      return fail(ErrorCode::bad_input, "{}: the name is empty or listed twice", here);
    OPTIQ_CHECK(check_module(module, sensitivity, here));
  }
  return check_caches(sensitivity, where);
}

Json sensitivity_to_json(const Sensitivity& sensitivity) {
  Json modules = Json::array();
  for (const ModuleSensitivity& module : sensitivity.modules) modules.push_back(module_to_json(module));
  Json json{{"format", kFormat},
            {"version", kFileVersion},
            {"model", model_to_json(sensitivity.model)},
            {"estimator", estimator_name(sensitivity.estimator)},
            {"encoder", quant::encoder_name(sensitivity.encoder)},
            {"calibration", calibration_to_json(sensitivity.calibration)},
            {"half_split_spearman", sensitivity.half_split_spearman},
            {"projection_scale", sensitivity.projection_scale},
            {"fixed", tensors_to_json(sensitivity.fixed)},
            {"modules", std::move(modules)}};
  if (!sensitivity.caches.empty()) json["kv"] = caches_to_json(sensitivity.caches);
  return json;
}

Result<Sensitivity> sensitivity_from_json(const Json& json, const std::string& where) {
  const JsonReader reader(json, where);
  OPTIQ_CHECK(check_file_kind(reader, kFormat));
  Sensitivity all;
  OPTIQ_TRY(const JsonReader model, reader.object("model"));
  OPTIQ_TRY(all.model, model_from_json(model));
  OPTIQ_TRY(const std::string estimator, reader.string("estimator"));
  OPTIQ_TRY(const std::string encoder, reader.string("encoder"));
  const auto estimated = parse_estimator(estimator);
  if (!estimated) return with_context(estimated.error(), where);
  all.estimator = *estimated;
  const auto parsed = quant::parse_encoder(encoder);
  if (!parsed) return fail(ErrorCode::bad_input, "{}: {}", where, parsed.error().message);
  all.encoder = *parsed;
  OPTIQ_TRY(const JsonReader calibration, reader.object("calibration"));
  OPTIQ_TRY(all.calibration, read_calibration(calibration));
  OPTIQ_TRY(all.half_split_spearman, reader.number("half_split_spearman"));
  OPTIQ_TRY(all.projection_scale, reader.number("projection_scale"));
  OPTIQ_TRY(all.fixed, tensors_from_json(reader, "fixed"));
  OPTIQ_TRY(const Json* modules, reader.array("modules"));
  for (const Json& module_json : *modules) {
    const std::string here = fmt::format("{}: modules[{}]", where, all.modules.size());
    OPTIQ_TRY(ModuleSensitivity module, read_module(JsonReader(module_json, here)));
    all.modules.push_back(std::move(module));
  }
  if (reader.has("kv")) {
    OPTIQ_TRY(const JsonReader caches, reader.object("kv"));
    OPTIQ_TRY(all.caches, read_caches(caches));
  }
  OPTIQ_CHECK(check_sensitivity(all, where));
  return all;
}

Result<Sensitivity> read_sensitivity(const std::filesystem::path& path) {
  OPTIQ_TRY(const Json json, read_json_file(path));
  return sensitivity_from_json(json, path.string());
}

Status write_sensitivity(const std::filesystem::path& path, const Sensitivity& sensitivity) {
  OPTIQ_CHECK(check_sensitivity(sensitivity, path.string()));
  return write_file_atomically(path, format_json(sensitivity_to_json(sensitivity)));
}

}  // namespace optiq::profile
