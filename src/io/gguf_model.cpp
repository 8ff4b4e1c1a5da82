#include "gguf_model.h"

#include <array>

#include "gguf_cursor.h"

namespace optiq::io {
namespace {

// Far above any model, and small enough that a product of two stays below 2^63.
constexpr std::int64_t kLargestSize = 1 << 30;

constexpr std::array<GgufArchitecture, 4> kArchitectures{{
    {.name = "llama", .transformers_class = "LlamaForCausalLM", .interleaved_rope = true},
    {.name = "qwen2", .transformers_class = "Qwen2ForCausalLM", .qkv_bias = true},
    {.name = "qwen3", .transformers_class = "Qwen3ForCausalLM", .qk_norm = true},
    {.name = "phi3", .transformers_class = "Phi3ForCausalLM", .fused = true},
}};

Result<const GgufArchitecture*> find_architecture(const GgufFile& file) {
  OPTIQ_TRY(const std::string name, file.metadata().string("general.architecture"));
  for (const GgufArchitecture& architecture : kArchitectures) {
    if (architecture.name == name) return &architecture;
  }
  return fail(ErrorCode::bad_input,
              "{}: general.architecture: expected llama, qwen2, qwen3 or phi3, got \"{}\"", file.where(),
              printable(name));
}

/// Files that are well-formed but hold something else than one whole dense model.
Status check_is_whole_model(const GgufFile& file, const GgufModel& model) {
  const GgufMetadata& metadata = file.metadata();
  OPTIQ_TRY(const std::string type, metadata.string_or("general.type", "model"));
  if (type != "model") {
    return fail(ErrorCode::bad_input, "{}: general.type: expected \"model\", got \"{}\"", file.where(),
                printable(type));
  }
  OPTIQ_TRY(const std::int64_t pieces, metadata.integer_or("split.count", 1));
  if (pieces > 1) {
    return fail(ErrorCode::bad_input,
                "{}: split.count: expected a whole model, got one of {} pieces: merge them first",
                file.where(), pieces);
  }
  OPTIQ_TRY(const std::int64_t experts, metadata.integer_or(architecture_key(model, "expert_count"), 0));
  if (experts != 0) {
    return fail(ErrorCode::bad_input, "{}: {}: expected a dense model, got a mixture of {} experts",
                file.where(), architecture_key(model, "expert_count"), experts);
  }
  return {};
}

/// A size of the model, by its key without the architecture's prefix.
class SizeReader {
 public:
  SizeReader(const GgufFile& file, const GgufModel& model) : file_(file), model_(model) {}

  [[nodiscard]] Result<std::int64_t> required(std::string_view key) const {
    const std::string full = architecture_key(model_, key);
    OPTIQ_TRY(const std::int64_t value, file_.metadata().integer(full));
    if (value >= 1 && value <= kLargestSize) return value;
    return fail(ErrorCode::bad_input, "{}: {}: expected 1 to {}, got {}", file_.where(), full, kLargestSize,
                value);
  }
  [[nodiscard]] Result<std::int64_t> optional(std::string_view key, std::int64_t fallback) const {
    return file_.metadata().has(architecture_key(model_, key)) ? required(key)
                                                               : Result<std::int64_t>(fallback);
  }

 private:
  const GgufFile& file_;
  const GgufModel& model_;
};

Status read_sizes(const GgufFile& file, GgufModel& model) {
  const SizeReader size(file, model);
  OPTIQ_TRY(model.layers, size.required("block_count"));
  OPTIQ_TRY(model.hidden, size.required("embedding_length"));
  OPTIQ_TRY(model.intermediate, size.required("feed_forward_length"));
  OPTIQ_TRY(model.context, size.required("context_length"));
  OPTIQ_TRY(const auto tokens, file.metadata().strings("tokenizer.ggml.tokens"));
  model.vocabulary = static_cast<std::int64_t>(tokens.size());
  return {};
}

Status read_heads(const GgufFile& file, GgufModel& model) {
  const SizeReader size(file, model);
  OPTIQ_TRY(model.heads, size.required("attention.head_count"));
  OPTIQ_TRY(model.kv_heads, size.optional("attention.head_count_kv", model.heads));
  if (model.heads % model.kv_heads != 0) {
    return fail(ErrorCode::bad_input,
                "{}: attention.head_count: expected a multiple of head_count_kv {}, got {}", file.where(),
                model.kv_heads, model.heads);
  }
  OPTIQ_TRY(model.head_dim, size.optional("attention.key_length", model.hidden / model.heads));
  OPTIQ_TRY(const std::int64_t value_dim, size.optional("attention.value_length", model.head_dim));
  OPTIQ_TRY(model.rotary_dim, size.optional("rope.dimension_count", model.head_dim));
  const bool partial = model.architecture->fused;
  if (value_dim != model.head_dim || model.rotary_dim > model.head_dim || model.rotary_dim % 2 != 0 ||
      (!partial && model.rotary_dim != model.head_dim)) {
    return fail(ErrorCode::bad_input,
                "{}: expected attention.value_length and rope.dimension_count equal to the (even) head "
                "dimension {}, got "
                "{} and {}",
                file.where(), model.head_dim, value_dim, model.rotary_dim);
  }
  return {};
}

Status read_numbers(const GgufFile& file, GgufModel& model) {
  const GgufMetadata& metadata = file.metadata();
  OPTIQ_TRY(model.norm_epsilon, metadata.number(architecture_key(model, "attention.layer_norm_rms_epsilon")));
  OPTIQ_TRY(model.rope_theta, metadata.number_or(architecture_key(model, "rope.freq_base"), 10000.0));
  OPTIQ_TRY(model.sliding_window,
            metadata.integer_or(architecture_key(model, "attention.sliding_window"), 0));
  if (model.norm_epsilon >= 0 && model.rope_theta > 0 && model.sliding_window >= 0) return {};
  return fail(
      ErrorCode::bad_input,
      "{}: expected layer_norm_rms_epsilon ≥ 0, rope.freq_base > 0 and sliding_window ≥ 0, got {}, {} and {}",
      file.where(), model.norm_epsilon, model.rope_theta, model.sliding_window);
}

}  // namespace

std::string architecture_key(const GgufModel& model, std::string_view key) {
  return fmt::format("{}.{}", model.architecture->name, key);
}

Result<GgufModel> read_gguf_model(const GgufFile& file) {
  GgufModel model;
  OPTIQ_TRY(model.architecture, find_architecture(file));
  OPTIQ_CHECK(check_is_whole_model(file, model));
  OPTIQ_CHECK(read_sizes(file, model));
  OPTIQ_CHECK(read_heads(file, model));
  OPTIQ_CHECK(read_numbers(file, model));
  model.tied_embeddings = file.find("output.weight") == nullptr;
  model.attention_bias = file.find("blk.0.attn_q.bias") != nullptr;
  model.mlp_bias = file.find("blk.0.ffn_gate.bias") != nullptr;
  return model;
}

}  // namespace optiq::io
