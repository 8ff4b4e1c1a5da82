#include <set>

#include "gguf_cursor.h"
#include "gguf_model.h"

namespace optiq::io {
namespace {

class TensorMapper {
 public:
  TensorMapper(const GgufFile& file, const GgufModel& model, DType dtype)
      : file_(file), model_(model), dtype_(dtype) {}

  Result<std::vector<GgufImportedTensor>> map();

 private:
  using Shape = std::vector<std::int64_t>;

  Status map_layer(std::int64_t layer);
  Status map_attention(const std::string& from, const std::string& to);
  Status map_mlp(const std::string& from, const std::string& to);
  Status map_linear(const std::string& from, const std::string& to, std::int64_t out, std::int64_t in,
                    bool bias, std::int64_t interleaved_heads = 0);
  Status map_tensor(const std::string& from, const std::string& to, const Shape& shape,
                    std::int64_t interleaved_heads = 0);
  Status check_all_used() const;

  const GgufFile& file_;
  const GgufModel& model_;
  DType dtype_;
  std::vector<GgufImportedTensor> tensors_;
  // Rotary factors become part of config.json.
  std::set<std::string, std::less<>> used_{"rope_freqs.weight", "rope_factors_long.weight",
                                           "rope_factors_short.weight"};
};

Result<std::vector<GgufImportedTensor>> TensorMapper::map() {
  OPTIQ_CHECK(
      map_tensor("token_embd.weight", "model.embed_tokens.weight", {model_.vocabulary, model_.hidden}));
  for (std::int64_t layer = 0; layer < model_.layers; ++layer) OPTIQ_CHECK(map_layer(layer));
  OPTIQ_CHECK(map_tensor("output_norm.weight", "model.norm.weight", {model_.hidden}));
  if (!model_.tied_embeddings)
    OPTIQ_CHECK(map_tensor("output.weight", "lm_head.weight", {model_.vocabulary, model_.hidden}));
  OPTIQ_CHECK(check_all_used());
  return std::move(tensors_);
}

Status TensorMapper::map_layer(std::int64_t layer) {
  const std::string from = fmt::format("blk.{}.", layer);
  const std::string to = fmt::format("model.layers.{}.", layer);
  OPTIQ_CHECK(map_tensor(from + "attn_norm.weight", to + "input_layernorm.weight", {model_.hidden}));
  OPTIQ_CHECK(map_attention(from, to + "self_attn."));
  OPTIQ_CHECK(map_tensor(from + "ffn_norm.weight", to + "post_attention_layernorm.weight", {model_.hidden}));
  return map_mlp(from, to + "mlp.");
}

Status TensorMapper::map_attention(const std::string& from, const std::string& to) {
  const GgufArchitecture& architecture = *model_.architecture;
  const std::int64_t q = model_.heads * model_.head_dim;
  const std::int64_t kv = model_.kv_heads * model_.head_dim;
  const bool bias = model_.attention_bias || architecture.qkv_bias;
  if (architecture.fused) {
    OPTIQ_CHECK(map_linear(from + "attn_qkv", to + "qkv_proj", q + 2 * kv, model_.hidden, bias));
  } else {
    const bool interleaved = architecture.interleaved_rope;
    OPTIQ_CHECK(
        map_linear(from + "attn_q", to + "q_proj", q, model_.hidden, bias, interleaved ? model_.heads : 0));
    OPTIQ_CHECK(map_linear(from + "attn_k", to + "k_proj", kv, model_.hidden, bias,
                           interleaved ? model_.kv_heads : 0));
    OPTIQ_CHECK(map_linear(from + "attn_v", to + "v_proj", kv, model_.hidden, bias));
  }
  if (architecture.qk_norm) {
    OPTIQ_CHECK(map_tensor(from + "attn_q_norm.weight", to + "q_norm.weight", {model_.head_dim}));
    OPTIQ_CHECK(map_tensor(from + "attn_k_norm.weight", to + "k_norm.weight", {model_.head_dim}));
  }
  return map_linear(from + "attn_output", to + "o_proj", model_.hidden, q, bias && !architecture.qkv_bias);
}

Status TensorMapper::map_mlp(const std::string& from, const std::string& to) {
  const bool bias = model_.mlp_bias;
  if (model_.architecture->fused) {
    OPTIQ_CHECK(
        map_linear(from + "ffn_up", to + "gate_up_proj", 2 * model_.intermediate, model_.hidden, bias));
  } else {
    OPTIQ_CHECK(map_linear(from + "ffn_gate", to + "gate_proj", model_.intermediate, model_.hidden, bias));
    OPTIQ_CHECK(map_linear(from + "ffn_up", to + "up_proj", model_.intermediate, model_.hidden, bias));
  }
  return map_linear(from + "ffn_down", to + "down_proj", model_.hidden, model_.intermediate, bias);
}

Status TensorMapper::map_linear(const std::string& from, const std::string& to, std::int64_t out,
                                std::int64_t in, bool bias, std::int64_t interleaved_heads) {
  OPTIQ_CHECK(map_tensor(from + ".weight", to + ".weight", {out, in}, interleaved_heads));
  if (!bias) return {};
  return map_tensor(from + ".bias", to + ".bias", {out}, interleaved_heads);
}

Status TensorMapper::map_tensor(const std::string& from, const std::string& to, const Shape& shape,
                                std::int64_t interleaved_heads) {
  const GgufTensor* tensor = file_.find(from);
  if (tensor == nullptr) {
    return fail(ErrorCode::bad_input, "{}: tensor {}: expected one of shape [{}], but it is missing",
                file_.where(), from, fmt::join(shape, ", "));
  }
  if (tensor->shape != shape) {
    return fail(ErrorCode::bad_input, "{}: tensor {}: expected shape [{}], got [{}]", file_.where(), from,
                fmt::join(shape, ", "), fmt::join(tensor->shape, ", "));
  }
  const GgufTensorTypeInfo& info = *find_gguf_tensor_type(tensor->type);
  // The elements of an interleaved bias are moved one by one, which blocks do not allow; ggml never quantizes
  // it.
  const bool readable =
      info.supported && (info.block_elements == 1 || shape.size() > 1 || interleaved_heads == 0);
  if (!readable) {
    return fail(ErrorCode::bad_input, "{}: tensor {}: type {} cannot be imported; expected one of {}",
                file_.where(), from, info.name,
                shape.size() > 1 ? supported_gguf_tensor_types() : "F32, F16, BF16");
  }
  used_.insert(from);
  tensors_.push_back({tensor, {to, dtype_, shape}, interleaved_heads});
  return {};
}

Status TensorMapper::check_all_used() const {
  for (const GgufTensor& tensor : file_.tensors()) {
    if (!used_.contains(tensor.name)) {
      return fail(ErrorCode::bad_input, "{}: tensor {}: a {} model has no place for it", file_.where(),
                  printable(tensor.name), model_.architecture->name);
    }
  }
  return {};
}

}  // namespace

Result<std::vector<GgufImportedTensor>> map_gguf_tensors(const GgufFile& file, const GgufModel& model,
                                                         DType dtype) {
  return TensorMapper(file, model, dtype).map();
}

}  // namespace optiq::io
