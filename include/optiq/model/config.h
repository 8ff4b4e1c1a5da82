// What a decoder-only transformer is, read from config.json: one table of families, one set of facts.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "optiq/base/json.h"
#include "optiq/base/result.h"
#include "optiq/quant/format.h"

namespace optiq::model {

/// Whether config.json's "sliding_window" counts: mistral and phi3 obey it, qwen only with
/// "use_sliding_window", llama ignores it.
enum class WindowRule { ignored, obeyed, opt_in };

/// Facts that hold for every checkpoint of a family (config.json's model_type).
struct Family {
  std::string_view model_type;  ///< "llama", "mistral", "qwen2", "qwen3", "phi3"
  bool fused_qkv = false;       ///< one self_attn.qkv_proj instead of q_proj, k_proj, v_proj
  bool fused_gate_up = false;   ///< one mlp.gate_up_proj instead of gate_proj, up_proj
  bool qkv_bias = false;        ///< q, k, v have biases where config.json does not say
  bool qk_norm = false;         ///< RMSNorm over each head of q and k before RoPE
  WindowRule window = WindowRule::ignored;
};
/// nullptr for a family that is not in the table.
const Family* find_family(std::string_view model_type);
/// "llama, mistral, …" for error messages and help.
std::string family_names();

/// Rotary embedding with every `rope_scaling` kind resolved at load: default, linear, dynamic (fixed at its
/// original length, where it equals default), llama3, yarn, longrope ("su").
struct Rope {
  std::vector<float> inverse_frequencies;  ///< rotary_dim / 2
  float magnitude = 1;                     ///< attention factor of yarn and longrope
  /// longrope's second set, which replaces the first in every pass that reaches beyond `original_positions`
  /// (as transformers does: keys already in a cache keep the rotation they had). Empty for other kinds.
  std::vector<float> long_inverse_frequencies = {};
  std::int64_t original_positions = 0;
};

struct ModelConfig {
  const Family* family = nullptr;
  std::int64_t vocabulary = 0;
  std::int64_t hidden = 0;
  std::int64_t intermediate = 0;
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t max_positions = 0;
  std::int64_t sliding_window = 0;       ///< 0 = none
  std::int64_t first_sliding_layer = 0;  ///< blocks before this one attend to everything
  float norm_epsilon = 1e-5f;
  bool tied_embeddings = false;
  bool attention_bias = false;  ///< of q, k, v
  bool output_bias = false;     ///< of o_proj
  bool mlp_bias = false;
  Rope rope;

  /// The attention window of a block, 0 = none.
  [[nodiscard]] std::int64_t window(std::int64_t layer) const {
    return layer >= first_sliding_layer ? sliding_window : 0;
  }
};

/// bad_input (naming `where` and the key) for an unknown family, missing or contradictory values (heads not
/// divisible by kv_heads, absurd sizes, unknown rope_scaling kind, …).
Result<ModelConfig> parse_config(const Json& config, const std::string& where);

/// A module whose weight can be quantized, by its name in the checkpoint without ".weight".
struct ModuleShape {
  std::string name;  ///< "model.layers.0.mlp.down_proj", "model.embed_tokens", "lm_head"
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  std::int64_t layer = -1;  ///< block index; -1 for embeddings and head
  bool has_bias = false;
};

/// All of them in execution order: embed_tokens, blocks, lm_head (absent where tied).
std::vector<ModuleShape> module_shapes(const ModelConfig& config);

/// The format of a module, from config.json's "quantization", else "quantization_config": its override (an
/// object or false) where one is listed, else the top-level values; dense where there is no quantization.
/// bad_input for a mode other than affine, an impossible format, or another tool's quantization_config.
Result<quant::Format> module_format(const Json& config, const std::string& module, const std::string& where);

}  // namespace optiq::model
