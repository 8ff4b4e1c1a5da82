// Rotary scaling, which a GGUF file expresses in two ways: as keys (linear, yarn), and as tensors of factors
// that divide the frequencies (rope_freqs.weight: llama3; rope_factors_{long,short}.weight: longrope).
#include <algorithm>
#include <cmath>
#include <numbers>

#include "gguf_model.h"
#include "optiq/io/gguf_dequantize.h"

namespace optiq::io {
namespace {

// llama.cpp's converter computes factors and attention factors in f32.
constexpr double kTolerance = 1e-4;
// The low and high factors of every published "llama3" scaling. The factors in the file determine the
// original context only up to a common scale of it and these two; scaled alike, the three mean the same.
constexpr double kLowFactor = 1;
constexpr double kHighFactor = 4;

bool close(double a, double b) {
  return std::abs(a - b) <= kTolerance * std::max(std::abs(a), std::abs(b));
}

Result<std::vector<float>> read_factors(const GgufFile& file, const GgufModel& model, std::string_view name) {
  const GgufTensor* tensor = file.find(name);
  const std::vector<std::int64_t> expected{model.rotary_dim / 2};
  if (tensor == nullptr || tensor->type != GgufTensorType::f32 || tensor->shape != expected) {
    return fail(ErrorCode::bad_input,
                "{}: tensor {}: expected {} factors in F32, one a rotated pair of channels", file.where(),
                name, expected[0]);
  }
  std::vector<float> factors(static_cast<std::size_t>(expected[0]));
  OPTIQ_CHECK(dequantize(tensor->type, tensor->bytes, factors));
  const auto bad = std::ranges::find_if(factors, [](float f) { return !std::isfinite(f) || f <= 0; });
  if (bad == factors.end()) return factors;
  return fail(ErrorCode::bad_input, "{}: tensor {}: expected positive factors, got {}", file.where(), name,
              *bad);
}

/// How often the channel pair i turns within one position times 2π: its unscaled frequency.
double frequency(const GgufModel& model, std::size_t i) {
  return std::pow(model.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(model.rotary_dim));
}

/// The "llama3" rule: slow channels are divided by `factor`, fast ones kept, those between blended.
double llama3_factor(double frequency, double factor, double original_context) {
  const double turns = original_context * frequency / (2 * std::numbers::pi);
  const double kept = std::clamp((turns - kLowFactor) / (kHighFactor - kLowFactor), 0.0, 1.0);
  return 1 / ((1 - kept) / factor + kept);
}

/// The original context that the blended channels imply; 0 where there is none. The channel with the largest
/// factor below `factor` is the one whose blend moves most with the context.
double implied_context(const GgufModel& model, const std::vector<float>& factors, double factor) {
  for (std::size_t i = factors.size(); i-- > 0;) {
    const double own = factors[i];
    if (close(own, 1) || close(own, factor)) continue;
    const double kept = (1 / own - 1 / factor) / (1 - 1 / factor);
    const double turns = kLowFactor + kept * (kHighFactor - kLowFactor);
    return std::round(turns * 2 * std::numbers::pi / frequency(model, i));
  }
  return 0;
}

Result<Json> llama3_scaling(const GgufFile& file, const GgufModel& model) {
  OPTIQ_TRY(const std::vector<float> factors, read_factors(file, model, "rope_freqs.weight"));
  const double factor = factors.back();
  if (std::ranges::all_of(factors, [](float f) { return f == 1.0f; })) return Json();
  const double context = implied_context(model, factors, factor);
  for (std::size_t i = 0; i < factors.size(); ++i) {
    const double expected = context > 0 ? llama3_factor(frequency(model, i), factor, context) : 0;
    if (!close(factors[i], expected)) {
      return fail(ErrorCode::bad_input,
                  "{}: tensor rope_freqs.weight: expected the factors of a \"llama3\" rope scaling, got {} "
                  "at index {}",
                  file.where(), factors[i], i);
    }
  }
  return Json{{"rope_type", "llama3"},
              {"factor", shortest_decimal(factors.back())},
              {"low_freq_factor", kLowFactor},
              {"high_freq_factor", kHighFactor},
              {"original_max_position_embeddings", static_cast<std::int64_t>(context)}};
}

/// transformers derives the attention factor from the two contexts; a file that says otherwise cannot be
/// expressed.
Status check_longrope_magnitude(const GgufFile& file, const GgufModel& model, std::int64_t original) {
  const double ratio = static_cast<double>(model.context) / static_cast<double>(original);
  const double derived =
      ratio > 1 ? std::sqrt(1 + std::log(ratio) / std::log(static_cast<double>(original))) : 1;
  const std::string key = architecture_key(model, "rope.scaling.attn_factor");
  OPTIQ_TRY(const double stored, file.metadata().number_or(key, derived));
  if (close(stored, derived)) return {};
  return fail(ErrorCode::bad_input, "{}: {}: expected {} (from contexts {} and {}), got {}", file.where(),
              key, derived, original, model.context, stored);
}

Json decimals(const std::vector<float>& values) {
  Json json = Json::array();
  for (const float value : values) json.push_back(shortest_decimal(value));
  return json;
}

Result<Json> longrope_scaling(const GgufFile& file, const GgufModel& model) {
  OPTIQ_TRY(const auto long_factors, read_factors(file, model, "rope_factors_long.weight"));
  OPTIQ_TRY(const auto short_factors, read_factors(file, model, "rope_factors_short.weight"));
  const std::string key = architecture_key(model, "rope.scaling.original_context_length");
  OPTIQ_TRY(const std::int64_t original, file.metadata().integer(key));
  if (original < 2)
    return fail(ErrorCode::bad_input, "{}: {}: expected at least 2, got {}", file.where(), key, original);
  OPTIQ_CHECK(check_longrope_magnitude(file, model, original));
  return Json{{"type", "longrope"},
              {"long_factor", decimals(long_factors)},
              {"short_factor", decimals(short_factors)}};
}

Result<Json> keyed_scaling(const GgufFile& file, const GgufModel& model) {
  const GgufMetadata& metadata = file.metadata();
  const std::string type_key = architecture_key(model, "rope.scaling.type");
  OPTIQ_TRY(const std::string type, metadata.string_or(type_key, "none"));
  if (metadata.has(architecture_key(model, "rope.scale_linear"))) {
    return fail(ErrorCode::bad_input,
                "{}: rope.scale_linear: expected rope.scaling.type instead of this obsolete key",
                file.where());
  }
  const bool has_factors = file.find("rope_factors_long.weight") != nullptr;
  if (type == "none" || (type == "longrope" && has_factors)) return Json();
  OPTIQ_TRY(const double factor, metadata.number(architecture_key(model, "rope.scaling.factor")));
  if (type == "linear") return Json{{"rope_type", "linear"}, {"factor", factor}};
  if (type != "yarn")
    return fail(ErrorCode::bad_input, "{}: {}: expected none, linear or yarn, got \"{}\"", file.where(),
                type_key, type);
  OPTIQ_TRY(const double magnitude,
            metadata.number_or(architecture_key(model, "rope.scaling.attn_factor"), 1.0));
  const std::string tuned = architecture_key(model, "rope.scaling.yarn_");
  const auto next = metadata.values().lower_bound(tuned);
  if (magnitude != 1.0 || (next != metadata.values().end() && next->first.starts_with(tuned))) {
    return fail(ErrorCode::bad_input,
                "{}: {}: a yarn scaling with parameters of its own (attn_factor, yarn_*) is not "
                "supported",
                file.where(), type_key);
  }
  OPTIQ_TRY(const std::int64_t original,
            metadata.integer(architecture_key(model, "rope.scaling.original_context_length")));
  return Json{{"rope_type", "yarn"}, {"factor", factor}, {"original_max_position_embeddings", original}};
}

}  // namespace

Result<Json> read_gguf_rope_scaling(const GgufFile& file, const GgufModel& model) {
  OPTIQ_TRY(const Json keyed, keyed_scaling(file, model));
  const bool llama3 = file.find("rope_freqs.weight") != nullptr;
  const bool longrope = file.find("rope_factors_long.weight") != nullptr;
  if (static_cast<int>(!keyed.is_null()) + static_cast<int>(llama3) + static_cast<int>(longrope) > 1) {
    return fail(
        ErrorCode::bad_input,
        "{}: expected one rotary scaling, got more than one of rope.scaling.type, rope_freqs.weight and "
        "rope_factors_long.weight",
        file.where());
  }
  if (llama3) return llama3_scaling(file, model);
  if (longrope) return longrope_scaling(file, model);
  return keyed;
}

}  // namespace optiq::io
