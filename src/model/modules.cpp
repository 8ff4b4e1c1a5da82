#include "optiq/model/config.h"

namespace optiq::model {
namespace {

void add_attention(const ModelConfig& config, std::int64_t layer, std::vector<ModuleShape>& modules) {
  const std::string prefix = fmt::format("model.layers.{}.self_attn.", layer);
  const std::int64_t q = config.heads * config.head_dim;
  const std::int64_t kv = config.kv_heads * config.head_dim;
  if (config.family->fused_qkv) {
    modules.push_back({prefix + "qkv_proj", q + 2 * kv, config.hidden, layer, config.attention_bias});
  } else {
    modules.push_back({prefix + "q_proj", q, config.hidden, layer, config.attention_bias});
    modules.push_back({prefix + "k_proj", kv, config.hidden, layer, config.attention_bias});
    modules.push_back({prefix + "v_proj", kv, config.hidden, layer, config.attention_bias});
  }
  modules.push_back({prefix + "o_proj", config.hidden, q, layer, config.output_bias});
}

void add_mlp(const ModelConfig& config, std::int64_t layer, std::vector<ModuleShape>& modules) {
  const std::string prefix = fmt::format("model.layers.{}.mlp.", layer);
  if (config.family->fused_gate_up) {
    modules.push_back(
        {prefix + "gate_up_proj", 2 * config.intermediate, config.hidden, layer, config.mlp_bias});
  } else {
    modules.push_back({prefix + "gate_proj", config.intermediate, config.hidden, layer, config.mlp_bias});
    modules.push_back({prefix + "up_proj", config.intermediate, config.hidden, layer, config.mlp_bias});
  }
  modules.push_back({prefix + "down_proj", config.hidden, config.intermediate, layer, config.mlp_bias});
}

}  // namespace

std::vector<ModuleShape> module_shapes(const ModelConfig& config) {
  std::vector<ModuleShape> modules{{"model.embed_tokens", config.vocabulary, config.hidden}};
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    add_attention(config, layer, modules);
    add_mlp(config, layer, modules);
  }
  if (!config.tied_embeddings) modules.push_back({"lm_head", config.vocabulary, config.hidden});
  return modules;
}

}  // namespace optiq::model
