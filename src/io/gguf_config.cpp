#include "gguf_model.h"

namespace optiq::io {
namespace {

std::string_view torch_name(DType dtype) {
  if (dtype == DType::f32) return "float32";
  return dtype == DType::f16 ? "float16" : "bfloat16";
}

/// Adds a token id under `name` where the file has one.
Status add_token(const GgufFile& file, const GgufModel& model, std::string_view key, const std::string& name,
                 Json& config) {
  if (!file.metadata().has(key)) return {};
  OPTIQ_TRY(const std::int64_t token, file.metadata().integer(key));
  if (token < 0 || token >= model.vocabulary) {
    return fail(ErrorCode::bad_input, "{}: {}: expected a token below {}, got {}", file.where(), key,
                model.vocabulary, token);
  }
  config[name] = token;
  return {};
}

Status add_tokens(const GgufFile& file, const GgufModel& model, Json& config) {
  OPTIQ_CHECK(add_token(file, model, "tokenizer.ggml.bos_token_id", "bos_token_id", config));
  OPTIQ_CHECK(add_token(file, model, "tokenizer.ggml.eos_token_id", "eos_token_id", config));
  return add_token(file, model, "tokenizer.ggml.padding_token_id", "pad_token_id", config);
}

void add_sizes(const GgufModel& model, Json& config) {
  config["vocab_size"] = model.vocabulary;
  config["hidden_size"] = model.hidden;
  config["intermediate_size"] = model.intermediate;
  config["num_hidden_layers"] = model.layers;
  config["num_attention_heads"] = model.heads;
  config["num_key_value_heads"] = model.kv_heads;
  config["head_dim"] = model.head_dim;
  config["max_position_embeddings"] = model.context;
}

Status add_rope(const GgufFile& file, const GgufModel& model, Json& config) {
  config["rope_theta"] = model.rope_theta;
  if (model.rotary_dim != model.head_dim)
    config["partial_rotary_factor"] =
        static_cast<double>(model.rotary_dim) / static_cast<double>(model.head_dim);
  OPTIQ_TRY(const Json scaling, read_gguf_rope_scaling(file, model));
  if (scaling.is_null()) return {};
  config["rope_scaling"] = scaling;
  // transformers' phi3 reads the original context beside the scaling, and allows no other key in it.
  const std::string original = architecture_key(model, "rope.scaling.original_context_length");
  if (scaling.contains("long_factor")) {
    OPTIQ_TRY(config["original_max_position_embeddings"], file.metadata().integer(original));
  }
  return {};
}

void add_window(const GgufModel& model, Json& config) {
  // The qwen architectures have no window in llama.cpp, whatever their files say.
  const std::string_view name = model.architecture->name;
  if (model.sliding_window == 0 || (name != "llama" && name != "phi3")) return;
  config["sliding_window"] = model.sliding_window;
  if (name == "llama") {
    // A llama file with a window is a Mistral model: the same network in every other respect.
    config["architectures"] = Json::array({"MistralForCausalLM"});
    config["model_type"] = "mistral";
  }
}

}  // namespace

Result<Json> make_gguf_generation_config(const GgufFile& file, const GgufModel& model) {
  Json config{{"_from_model_config", true}};
  OPTIQ_CHECK(add_tokens(file, model, config));
  Json turn = Json::object();
  OPTIQ_CHECK(add_token(file, model, "tokenizer.ggml.eot_token_id", "eot", turn));
  if (!turn.contains("eot") || !config.contains("eos_token_id") || turn["eot"] == config["eos_token_id"])
    return config;
  config["eos_token_id"] = Json::array({config["eos_token_id"], turn["eot"]});
  return config;
}

Result<Json> make_gguf_config(const GgufFile& file, const GgufModel& model, DType dtype) {
  Json config;
  config["architectures"] = Json::array({model.architecture->transformers_class});
  config["model_type"] = model.architecture->name;
  add_sizes(model, config);
  config["hidden_act"] = "silu";
  config["rms_norm_eps"] = model.norm_epsilon;
  OPTIQ_CHECK(add_rope(file, model, config));
  add_window(model, config);
  config["tie_word_embeddings"] = model.tied_embeddings;
  config["attention_bias"] = model.attention_bias;
  config["mlp_bias"] = model.mlp_bias;
  OPTIQ_CHECK(add_tokens(file, model, config));
  config["torch_dtype"] = torch_name(dtype);
  return config;
}

}  // namespace optiq::io
