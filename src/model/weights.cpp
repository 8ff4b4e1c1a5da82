#include <map>
#include <set>

#include "load_weights.h"

namespace optiq::model {
namespace {

/// Takes tensors out of a checkpoint one by one, each checked, and remembers which were wanted.
class Loader {
 public:
  Loader(const io::Checkpoint& checkpoint, const ModelConfig& config)
      : checkpoint_(checkpoint), where_((checkpoint.folder() / "config.json").string()) {
    for (ModuleShape& shape : module_shapes(config)) shapes_.emplace(shape.name, std::move(shape));
  }

  Result<mx::array> floats(const std::string& name, const std::vector<std::int64_t>& shape);
  Result<Module> module(const std::string& name);
  /// Tensors that nothing asked for; bad_input where one belongs to a module that should not have it.
  Result<std::vector<std::string>> unused() const;

 private:
  Result<io::TensorView> require(const std::string& name, const std::vector<std::int64_t>& shape);
  Result<quant::Format> format(const ModuleShape& shape) const;
  Result<kernels::QuantizedWeight> quantized(const ModuleShape& shape, quant::Format format);
  template <class... Args>
  tl::unexpected<Error> mismatch(const io::TensorView& tensor, fmt::format_string<Args...> text,
                                 Args&&... args) const {
    return fail(ErrorCode::bad_input, "{}: tensor {}: {}", tensor.file.path().string(), tensor.name,
                fmt::format(text, std::forward<Args>(args)...));
  }

  const io::Checkpoint& checkpoint_;
  std::string where_;
  std::map<std::string, ModuleShape> shapes_;
  std::set<std::string> used_;
};

std::string to_text(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

Result<io::TensorView> Loader::require(const std::string& name, const std::vector<std::int64_t>& shape) {
  OPTIQ_TRY(io::TensorView tensor, checkpoint_.require(name));
  if (tensor.shape != shape) {
    return mismatch(tensor, "config.json expects the shape {}, the file has {}", to_text(shape),
                    to_text(tensor.shape));
  }
  used_.insert(name);
  return tensor;
}

Result<mx::array> Loader::floats(const std::string& name, const std::vector<std::int64_t>& shape) {
  OPTIQ_TRY(const io::TensorView tensor, require(name, shape));
  if (!is_float_dtype(tensor.dtype)) {
    return mismatch(tensor, "expected F16, BF16 or F32, the file has {}", dtype_name(tensor.dtype));
  }
  return map_tensor(tensor);
}

/// As mlx-lm reads it: a module that the quantization does not list and that has no scales is dense.
Result<quant::Format> Loader::format(const ModuleShape& shape) const {
  OPTIQ_TRY(const quant::Format stored, module_format(checkpoint_.config(), shape.name, where_));
  const JsonReader config(checkpoint_.config(), where_);
  const std::string_view key = config.has("quantization") ? "quantization" : "quantization_config";
  const bool listed = config.has(key) && checkpoint_.config()[std::string(key)].contains(shape.name);
  const io::TensorView* weight = checkpoint_.find(shape.name + ".weight");
  const bool has_scales = checkpoint_.find(shape.name + ".scales") != nullptr;
  if (!listed && !has_scales && weight != nullptr && is_float_dtype(weight->dtype)) {
    return quant::Format{.bits = 16, .group_size = 0};
  }
  if (!stored.is_dense()) OPTIQ_CHECK(quant::check_format(stored, shape.in_features, shape.name));
  return stored;
}

Result<kernels::QuantizedWeight> Loader::quantized(const ModuleShape& shape, quant::Format format) {
  const std::vector<std::int64_t> groups{shape.out_features, shape.in_features / format.group_size};
  OPTIQ_TRY(const io::TensorView packed,
            require(shape.name + ".weight",
                    {shape.out_features, quant::packed_row_words(shape.in_features, format.bits)}));
  if (packed.dtype != DType::u32) {
    return mismatch(packed, "expected U32 ({}), the file has {}", quant::to_string(format),
                    dtype_name(packed.dtype));
  }
  OPTIQ_TRY(mx::array weight, map_tensor(packed));
  OPTIQ_TRY(mx::array scales, floats(shape.name + ".scales", groups));
  OPTIQ_TRY(mx::array biases, floats(shape.name + ".biases", groups));
  if (scales.dtype() != biases.dtype()) {
    return mismatch(*checkpoint_.find(shape.name + ".biases"), "expected the dtype of the scales");
  }
  return kernels::QuantizedWeight{std::move(weight), std::move(scales), std::move(biases), format.bits,
                                  format.group_size};
}

Result<Module> Loader::module(const std::string& name) {
  const ModuleShape& shape = shapes_.at(name);
  OPTIQ_TRY(const quant::Format stored, format(shape));
  std::optional<mx::array> bias;
  if (shape.has_bias) {
    OPTIQ_TRY(bias, floats(name + ".bias", {shape.out_features}));
  }
  if (stored.is_dense()) {
    OPTIQ_TRY(mx::array weight, floats(name + ".weight", {shape.out_features, shape.in_features}));
    return Module{name, stored, std::move(weight), std::move(bias)};
  }
  OPTIQ_TRY(kernels::QuantizedWeight weight, quantized(shape, stored));
  return Module{name, stored, std::move(weight), std::move(bias)};
}

Result<std::vector<std::string>> Loader::unused() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : checkpoint_.tensors()) {
    if (used_.contains(name)) continue;
    if (shapes_.contains(name.substr(0, name.rfind('.')))) {
      return mismatch(tensor, "the file has it, config.json says that there is none");
    }
    names.push_back(name);
  }
  return names;
}

Result<BlockWeights> load_block(Loader& loader, const ModelConfig& config, std::int64_t layer) {
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  const auto load_all = [&](std::initializer_list<const char*> names) -> Result<std::vector<Module>> {
    std::vector<Module> modules;
    for (const char* name : names) {
      OPTIQ_TRY(Module module, loader.module(prefix + name));
      modules.push_back(std::move(module));
    }
    return modules;
  };
  using Names = std::initializer_list<const char*>;
  const Family& family = *config.family;
  OPTIQ_TRY(auto qkv,
            load_all(family.fused_qkv ? Names{"self_attn.qkv_proj"}
                                      : Names{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}));
  OPTIQ_TRY(auto gate_up, load_all(family.fused_gate_up ? Names{"mlp.gate_up_proj"}
                                                        : Names{"mlp.gate_proj", "mlp.up_proj"}));
  OPTIQ_TRY(Module output, loader.module(prefix + "self_attn.o_proj"));
  OPTIQ_TRY(Module down, loader.module(prefix + "mlp.down_proj"));
  OPTIQ_TRY(mx::array attention_norm, loader.floats(prefix + "input_layernorm.weight", {config.hidden}));
  OPTIQ_TRY(mx::array mlp_norm, loader.floats(prefix + "post_attention_layernorm.weight", {config.hidden}));
  BlockWeights block{.attention_norm = std::move(attention_norm),
                     .mlp_norm = std::move(mlp_norm),
                     .q_norm = {},
                     .k_norm = {},
                     .qkv = std::move(qkv),
                     .output = std::move(output),
                     .gate_up = std::move(gate_up),
                     .down = std::move(down)};
  if (family.qk_norm) {
    OPTIQ_TRY(block.q_norm, loader.floats(prefix + "self_attn.q_norm.weight", {config.head_dim}));
    OPTIQ_TRY(block.k_norm, loader.floats(prefix + "self_attn.k_norm.weight", {config.head_dim}));
  }
  return block;
}

}  // namespace

Result<Weights> load_weights(const io::Checkpoint& checkpoint, const ModelConfig& config) {
  Loader loader(checkpoint, config);
  OPTIQ_TRY(Module embeddings, loader.module("model.embed_tokens"));
  std::vector<BlockWeights> blocks;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    OPTIQ_TRY(BlockWeights block, load_block(loader, config, layer));
    blocks.push_back(std::move(block));
  }
  OPTIQ_TRY(mx::array final_norm, loader.floats("model.norm.weight", {config.hidden}));
  std::optional<Module> head;
  if (!config.tied_embeddings) {
    OPTIQ_TRY(head, loader.module("lm_head"));
  }
  OPTIQ_TRY(std::vector<std::string> unused, loader.unused());
  return Weights{std::move(embeddings), std::move(blocks), std::move(final_norm), std::move(head),
                 std::move(unused)};
}

}  // namespace optiq::model
