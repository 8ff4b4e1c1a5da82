// The frequencies of each scaling kind. Sources: RoPE, Su et al. 2021; YaRN and NTK-by-parts, Peng et al.
// 2023; LongRoPE, Ding et al. 2024; the "llama3" rule from Llama 3.1's reference code. Defaults of optional
// keys are those of transformers' modeling_rope_utils.
#include "rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace optiq::model {
namespace {

/// What every kind needs.
struct RopeInput {
  JsonReader scaling;  ///< "rope_scaling" or "rope_parameters"; the whole config where neither is there
  double theta = 0;
  std::int64_t rotary_dim = 0;
  std::int64_t max_positions = 0;
  std::int64_t original_positions = 0;
};

Result<double> positive(const JsonReader& reader, std::string_view key, double value) {
  if (std::isfinite(value) && value > 0) return value;
  return fail(ErrorCode::bad_input, "{}: \"{}\": expected a positive number, got {}", reader.where(), key,
              value);
}

Result<double> positive_number(const JsonReader& reader, std::string_view key) {
  OPTIQ_TRY(const double value, reader.number(key));
  return positive(reader, key, value);
}

Result<double> positive_or(const JsonReader& reader, std::string_view key, double fallback) {
  OPTIQ_TRY(const double value, reader.number_or(key, fallback));
  return positive(reader, key, value);
}

std::vector<double> base_frequencies(double theta, std::int64_t rotary_dim) {
  std::vector<double> frequencies(static_cast<std::size_t>(rotary_dim / 2));
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim));
  }
  return frequencies;
}

std::vector<float> rounded(const std::vector<double>& frequencies) {
  std::vector<float> result(frequencies.size());
  std::ranges::transform(frequencies, result.begin(), [](double f) { return static_cast<float>(f); });
  return result;
}

Result<Rope> plain(const RopeInput& input) {
  return Rope{.inverse_frequencies = rounded(base_frequencies(input.theta, input.rotary_dim))};
}

Result<Rope> linear(const RopeInput& input) {
  OPTIQ_TRY(const double factor, positive_number(input.scaling, "factor"));
  std::vector<double> frequencies = base_frequencies(input.theta, input.rotary_dim);
  for (double& frequency : frequencies) frequency /= factor;
  return Rope{.inverse_frequencies = rounded(frequencies)};
}

/// Long wavelengths are slowed by `factor`, short ones kept, those between blended by wavelength.
Result<Rope> llama3(const RopeInput& input) {
  OPTIQ_TRY(const double factor, positive_number(input.scaling, "factor"));
  OPTIQ_TRY(const double low, positive_number(input.scaling, "low_freq_factor"));
  OPTIQ_TRY(const double high, positive_number(input.scaling, "high_freq_factor"));
  if (high <= low) {
    return fail(ErrorCode::bad_input,
                "{}: \"high_freq_factor\": expected more than low_freq_factor {}, got {}",
                input.scaling.where(), low, high);
  }
  std::vector<double> frequencies = base_frequencies(input.theta, input.rotary_dim);
  for (double& frequency : frequencies) {
    const double turns = static_cast<double>(input.original_positions) * frequency / (2 * std::numbers::pi);
    const double kept = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    frequency *= kept + (1 - kept) / factor;
  }
  return Rope{.inverse_frequencies = rounded(frequencies)};
}

double yarn_magnitude(double factor, double weight) {
  return factor <= 1 ? 1.0 : 0.1 * weight * std::log(factor) + 1.0;
}

Result<double> yarn_attention_factor(const RopeInput& input, double factor) {
  OPTIQ_TRY(const double mscale, input.scaling.number_or("mscale", 0));
  OPTIQ_TRY(const double mscale_all_dim, input.scaling.number_or("mscale_all_dim", 0));
  const bool both = mscale != 0 && mscale_all_dim != 0;
  const double recommended = both ? yarn_magnitude(factor, mscale) / yarn_magnitude(factor, mscale_all_dim)
                                  : yarn_magnitude(factor, 1);
  return positive_or(input.scaling, "attention_factor", recommended);
}

/// The (fractional) channel pair that turns `turns` times within the original context.
double yarn_channel(const RopeInput& input, double turns) {
  const double positions = static_cast<double>(input.original_positions);
  return static_cast<double>(input.rotary_dim) * std::log(positions / (turns * 2 * std::numbers::pi)) /
         (2 * std::log(input.theta));
}

/// Interpolates slow channels by `factor`, keeps fast ones, with a linear ramp between the two.
Result<Rope> yarn(const RopeInput& input) {
  const double ratio =
      static_cast<double>(input.max_positions) / static_cast<double>(input.original_positions);
  OPTIQ_TRY(const double factor, positive_or(input.scaling, "factor", ratio));
  OPTIQ_TRY(const double fast, positive_or(input.scaling, "beta_fast", 32));
  OPTIQ_TRY(const double slow, positive_or(input.scaling, "beta_slow", 1));
  OPTIQ_TRY(const bool truncate, input.scaling.boolean_or("truncate", true));
  OPTIQ_TRY(const double magnitude, yarn_attention_factor(input, factor));
  double begin = yarn_channel(input, fast);
  double end = yarn_channel(input, slow);
  if (truncate) {
    begin = std::floor(begin);
    end = std::ceil(end);
  }
  begin = std::max(begin, 0.0);
  end = std::min(end, static_cast<double>(input.rotary_dim - 1));
  if (begin == end) end += 0.001;
  std::vector<double> frequencies = base_frequencies(input.theta, input.rotary_dim);
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const double interpolated = std::clamp((static_cast<double>(i) - begin) / (end - begin), 0.0, 1.0);
    frequencies[i] *= interpolated / factor + (1 - interpolated);
  }
  return Rope{.inverse_frequencies = rounded(frequencies), .magnitude = static_cast<float>(magnitude)};
}

Result<std::vector<float>> divided_by(const RopeInput& input, std::string_view key) {
  OPTIQ_TRY(const Json* factors, input.scaling.array(key));
  std::vector<double> frequencies = base_frequencies(input.theta, input.rotary_dim);
  if (factors->size() != frequencies.size()) {
    return fail(ErrorCode::bad_input, "{}: \"{}\": expected {} factors (rotary dimension {}), got {}",
                input.scaling.where(), key, frequencies.size(), input.rotary_dim, factors->size());
  }
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const Json& factor = (*factors)[i];
    OPTIQ_TRY(const double value,
              positive(input.scaling, key, factor.is_number() ? factor.get<double>() : 0));
    frequencies[i] /= value;
  }
  return rounded(frequencies);
}

Result<Rope> longrope(const RopeInput& input) {
  const auto original = static_cast<double>(input.original_positions);
  const double ratio = static_cast<double>(input.max_positions) / original;
  OPTIQ_TRY(const double factor, positive_or(input.scaling, "factor", ratio));
  const double recommended = factor <= 1 ? 1.0 : std::sqrt(1 + std::log(factor) / std::log(original));
  OPTIQ_TRY(const double magnitude, positive_or(input.scaling, "attention_factor", recommended));
  OPTIQ_TRY(std::vector<float> within, divided_by(input, "short_factor"));
  OPTIQ_TRY(std::vector<float> beyond, divided_by(input, "long_factor"));
  return Rope{.inverse_frequencies = std::move(within),
              .magnitude = static_cast<float>(magnitude),
              .long_inverse_frequencies = std::move(beyond),
              .original_positions = input.original_positions};
}

using Builder = Result<Rope> (*)(const RopeInput&);
struct Kind {
  std::string_view name;
  Builder build;
};
constexpr Kind kKinds[] = {{"default", plain}, {"linear", linear}, {"dynamic", plain},    {"llama3", llama3},
                           {"yarn", yarn},     {"su", longrope},   {"longrope", longrope}};

Result<Rope> build(const RopeInput& input, std::string_view kind) {
  // Early phi3 checkpoints say "yarn" and mean longrope.
  if (kind == "yarn" && input.scaling.has("short_factor")) kind = "longrope";
  std::string names;
  for (const Kind& candidate : kKinds) {
    if (candidate.name == kind) return candidate.build(input);
    names += names.empty() ? "" : ", ";
    names += candidate.name;
  }
  return fail(ErrorCode::bad_input, "{}: \"rope_type\": expected one of {}; got \"{}\"",
              input.scaling.where(), names, kind);
}

Result<JsonReader> scaling_object(const JsonReader& reader) {
  for (const std::string_view key : {"rope_scaling", "rope_parameters"}) {
    if (reader.has(key)) return reader.object(key);
  }
  return reader;
}

Result<std::string> scaling_kind(const JsonReader& scaling, bool is_own_object) {
  if (!is_own_object) return std::string("default");
  for (const std::string_view key : {"rope_type", "type"}) {
    if (scaling.has(key)) return scaling.string(key);
  }
  for (const auto& [key, value] : scaling.json().items()) {
    if (value.is_object()) {
      return fail(ErrorCode::bad_input, "{}: \"{}\": rotary parameters for each layer type are not supported",
                  scaling.where(), key);
    }
  }
  return std::string("default");
}

/// A number that lies in the scaling object, or else beside it.
Result<double> number_of(const JsonReader& scaling, const JsonReader& reader, std::string_view key,
                         double fallback) {
  return positive_or(scaling.has(key) ? scaling : reader, key, fallback);
}

Result<std::int64_t> rotary_dimension(const JsonReader& reader, double partial, std::int64_t head_dim) {
  const auto rotary_dim = static_cast<std::int64_t>(static_cast<double>(head_dim) * std::min(partial, 2.0));
  if (rotary_dim >= 2 && rotary_dim % 2 == 0 && rotary_dim <= head_dim) return rotary_dim;
  return fail(ErrorCode::bad_input,
              "{}: rotary dimension: expected an even number from 2 to head_dim {}, got {} "
              "(partial_rotary_factor {})",
              reader.where(), head_dim, rotary_dim, partial);
}

/// Phi3 keeps the original length beside the scaling object, and that one wins.
Result<std::int64_t> original_length(const JsonReader& reader, const JsonReader& scaling,
                                     std::int64_t fallback) {
  constexpr std::string_view key = "original_max_position_embeddings";
  OPTIQ_TRY(const std::int64_t length, (reader.has(key) ? reader : scaling).integer_or(key, fallback));
  if (length >= 2 && length <= INT32_MAX) return length;
  return fail(ErrorCode::bad_input, "{}: \"{}\": expected 2 to {}, got {}", reader.where(), key, INT32_MAX,
              length);
}

/// Factors such as 1e-300 pass as numbers, yet no frequency survives them.
Status check_finite(const Rope& rope, const JsonReader& scaling) {
  const auto is_finite = [](float value) { return std::isfinite(value); };
  if (std::isfinite(rope.magnitude) && rope.magnitude > 0 &&
      std::ranges::all_of(rope.inverse_frequencies, is_finite) &&
      std::ranges::all_of(rope.long_inverse_frequencies, is_finite)) {
    return {};
  }
  return fail(ErrorCode::bad_input, "{}: the rotary frequencies exceed what float can hold", scaling.where());
}

}  // namespace

Result<Rope> parse_rope(const JsonReader& reader, const ModelConfig& config) {
  OPTIQ_TRY(const JsonReader scaling, scaling_object(reader));
  OPTIQ_TRY(const std::string kind, scaling_kind(scaling, &scaling.json() != &reader.json()));
  OPTIQ_TRY(const double theta, number_of(scaling, reader, "rope_theta", 10000));
  OPTIQ_TRY(const double partial, number_of(scaling, reader, "partial_rotary_factor", 1));
  OPTIQ_TRY(const std::int64_t rotary_dim, rotary_dimension(reader, partial, config.head_dim));
  OPTIQ_TRY(const std::int64_t original, original_length(reader, scaling, config.max_positions));
  if (theta <= 1) {
    return fail(ErrorCode::bad_input, "{}: \"rope_theta\": expected more than 1, got {}", reader.where(),
                theta);
  }
  const RopeInput input{scaling, theta, rotary_dim, config.max_positions, original};
  OPTIQ_TRY(Rope rope, build(input, kind));
  OPTIQ_CHECK(check_finite(rope, scaling));
  return rope;
}

}  // namespace optiq::model
