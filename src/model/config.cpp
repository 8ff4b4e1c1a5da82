#include "optiq/model/config.h"

#include "rope.h"

namespace optiq::model {
namespace {

// Far above any model that exists, and small enough that no product of three of them overflows.
constexpr std::int64_t kMostTokens = 1 << 24;
constexpr std::int64_t kMostFeatures = 1 << 20;
constexpr std::int64_t kMostLayers = 4096;
constexpr std::int64_t kMostHeads = 1 << 14;

Result<std::int64_t> in_range(const JsonReader& reader, std::string_view key, std::int64_t value,
                              std::int64_t most) {
  if (value >= 1 && value <= most) return value;
  return fail(ErrorCode::bad_input, "{}: \"{}\": expected 1 to {}, got {}", reader.where(), key, most, value);
}

Result<std::int64_t> size(const JsonReader& reader, std::string_view key, std::int64_t most) {
  OPTIQ_TRY(const std::int64_t value, reader.integer(key));
  return in_range(reader, key, value, most);
}

Result<std::int64_t> size_or(const JsonReader& reader, std::string_view key, std::int64_t fallback,
                             std::int64_t most) {
  OPTIQ_TRY(const std::int64_t value, reader.integer_or(key, fallback));
  return in_range(reader, key, value, most);
}

Result<const Family*> parse_family(const JsonReader& reader) {
  OPTIQ_TRY(const std::string model_type, reader.string("model_type"));
  if (const Family* family = find_family(model_type)) return family;
  return fail(ErrorCode::bad_input, "{}: \"model_type\": expected one of {}; got \"{}\"", reader.where(),
              family_names(), model_type);
}

Status parse_sizes(const JsonReader& reader, ModelConfig& config) {
  OPTIQ_TRY(config.vocabulary, size(reader, "vocab_size", kMostTokens));
  OPTIQ_TRY(config.hidden, size(reader, "hidden_size", kMostFeatures));
  OPTIQ_TRY(config.intermediate, size(reader, "intermediate_size", kMostFeatures));
  OPTIQ_TRY(config.layers, size(reader, "num_hidden_layers", kMostLayers));
  OPTIQ_TRY(config.max_positions, size(reader, "max_position_embeddings", INT32_MAX));
  return {};
}

Status parse_heads(const JsonReader& reader, ModelConfig& config) {
  OPTIQ_TRY(config.heads, size(reader, "num_attention_heads", kMostHeads));
  OPTIQ_TRY(config.kv_heads, size_or(reader, "num_key_value_heads", config.heads, kMostHeads));
  if (config.heads % config.kv_heads != 0) {
    return fail(ErrorCode::bad_input,
                "{}: \"num_attention_heads\": expected a multiple of num_key_value_heads {}, got {}",
                reader.where(), config.kv_heads, config.heads);
  }
  if (!reader.has("head_dim") && config.hidden % config.heads != 0) {
    return fail(ErrorCode::bad_input,
                "{}: \"hidden_size\": expected a multiple of num_attention_heads {}, got {}", reader.where(),
                config.heads, config.hidden);
  }
  OPTIQ_TRY(config.head_dim, size_or(reader, "head_dim", config.hidden / config.heads, kMostHeads));
  return {};
}

/// "layer_types" may only say what a first sliding layer says too: full attention first, sliding after it.
Result<std::int64_t> first_sliding_layer(const JsonReader& reader, const Json& types, std::int64_t layers) {
  std::int64_t first = 0;
  bool valid = static_cast<std::int64_t>(types.size()) == layers;
  for (std::size_t i = 0; valid && i < types.size(); ++i) {
    if (types[i] == "full_attention") {
      valid = first == static_cast<std::int64_t>(i);
      ++first;
    } else {
      valid = types[i] == "sliding_attention";
    }
  }
  if (valid) return first;
  return fail(ErrorCode::bad_input,
              "{}: \"layer_types\": expected {} entries, \"full_attention\" first and \"sliding_attention\" "
              "after; got {}",
              reader.where(), layers,
              types.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 200));
}

Status parse_window(const JsonReader& reader, ModelConfig& config) {
  const WindowRule rule = config.family->window;
  OPTIQ_TRY(const bool opted_in, reader.boolean_or("use_sliding_window", false));
  const bool counts = rule == WindowRule::obeyed || (rule == WindowRule::opt_in && opted_in);
  if (!counts || !reader.has("sliding_window")) return {};
  OPTIQ_TRY(config.sliding_window, size(reader, "sliding_window", INT32_MAX));
  if (reader.has("layer_types")) {
    OPTIQ_TRY(const Json* types, reader.array("layer_types"));
    OPTIQ_TRY(config.first_sliding_layer, first_sliding_layer(reader, *types, config.layers));
  } else if (rule == WindowRule::opt_in) {
    OPTIQ_TRY(config.first_sliding_layer, reader.integer_or("max_window_layers", 0));
  }
  return {};
}

Status parse_biases(const JsonReader& reader, ModelConfig& config) {
  const bool always_biased = config.family->qkv_bias;
  OPTIQ_TRY(config.attention_bias, reader.boolean_or("attention_bias", always_biased));
  config.output_bias = config.attention_bias && !always_biased;
  OPTIQ_TRY(config.mlp_bias, reader.boolean_or("mlp_bias", false));
  OPTIQ_TRY(config.tied_embeddings, reader.boolean_or("tie_word_embeddings", false));
  return {};
}

Status parse_activations(const JsonReader& reader, ModelConfig& config) {
  OPTIQ_TRY(const std::string activation, reader.string_or("hidden_act", "silu"));
  if (activation != "silu" && activation != "swish") {
    return fail(ErrorCode::bad_input, "{}: \"hidden_act\": expected \"silu\", got \"{}\"", reader.where(),
                activation);
  }
  OPTIQ_TRY(const double epsilon, reader.number("rms_norm_eps"));
  if (epsilon < 0 || epsilon > 1) {
    return fail(ErrorCode::bad_input, "{}: \"rms_norm_eps\": expected 0 to 1, got {}", reader.where(),
                epsilon);
  }
  config.norm_epsilon = static_cast<float>(epsilon);
  return {};
}

Result<quant::Format> parse_format(const JsonReader& reader, const std::string& module) {
  OPTIQ_TRY(const std::string mode, reader.string_or("mode", "affine"));
  if (mode != "affine") {
    return fail(ErrorCode::bad_input, "{}: \"mode\": expected \"affine\", got \"{}\"", reader.where(), mode);
  }
  OPTIQ_TRY(const std::int64_t bits, size(reader, "bits", 8));
  OPTIQ_TRY(const std::int64_t group_size, size(reader, "group_size", 128));
  const quant::Format format{.bits = static_cast<int>(bits), .group_size = static_cast<int>(group_size)};
  if (auto valid = quant::check_format(format, format.group_size, module); !valid) {
    return with_context(valid.error(), reader.where());
  }
  return format;
}

/// The object that holds MLX's quantization; the reader's own object where config.json has none.
Result<JsonReader> quantization_object(const JsonReader& reader) {
  if (reader.has("quantization")) return reader.object("quantization");
  if (!reader.has("quantization_config")) return reader;
  OPTIQ_TRY(const JsonReader other, reader.object("quantization_config"));
  if (!other.has("quant_method")) return other;
  return fail(ErrorCode::bad_input, "{}: \"quant_method\": expected MLX's affine format, got {}",
              other.where(),
              other.json()["quant_method"].dump(-1, ' ', false, Json::error_handler_t::replace));
}

}  // namespace

Result<ModelConfig> parse_config(const Json& json, const std::string& where) {
  const JsonReader reader(json, where);
  ModelConfig config;
  OPTIQ_TRY(config.family, parse_family(reader));
  OPTIQ_CHECK(parse_sizes(reader, config));
  OPTIQ_CHECK(parse_heads(reader, config));
  OPTIQ_CHECK(parse_window(reader, config));
  OPTIQ_CHECK(parse_biases(reader, config));
  OPTIQ_CHECK(parse_activations(reader, config));
  OPTIQ_TRY(config.rope, parse_rope(reader, config));
  return config;
}

Result<quant::Format> module_format(const Json& config, const std::string& module, const std::string& where) {
  const JsonReader reader(config, where);
  OPTIQ_TRY(const JsonReader quantization, quantization_object(reader));
  const quant::Format dense{.bits = 16, .group_size = 0};
  if (&quantization.json() == &reader.json()) return dense;
  if (!quantization.has(module)) return parse_format(quantization, module);
  const Json& override_value = quantization.json()[module];
  if (override_value.is_boolean()) {
    return override_value.get<bool>() ? parse_format(quantization, module) : Result<quant::Format>(dense);
  }
  OPTIQ_TRY(const JsonReader own, quantization.object(module));
  return parse_format(own, module);
}

}  // namespace optiq::model
