#include "layers.h"

#include "optiq/kernels/matrix.h"

namespace optiq::engine {
namespace {

Linear linear_of(const model::Module& module) {
  Linear linear{.name = module.name, .matrix = {}, .bias = {}};
  if (const auto* packed = std::get_if<kernels::QuantizedWeight>(&module.weight)) {
    linear.matrix = cpu::quantized_matrix(packed->weight, packed->scales, packed->biases, packed->bits,
                                          packed->group_size);
  } else {
    linear.matrix = cpu::dense_matrix(std::get<model::mx::array>(module.weight));
  }
  if (module.bias) linear.bias = cpu::float_values(*module.bias);
  return linear;
}

std::vector<Linear> linears_of(const std::vector<model::Module>& modules) {
  std::vector<Linear> linears;
  for (const model::Module& module : modules) linears.push_back(linear_of(module));
  return linears;
}

std::vector<float> optional_values(const std::optional<model::mx::array>& array) {
  return array ? cpu::float_values(*array) : std::vector<float>{};
}

}  // namespace

Layers layers_of(const model::Model& model) {
  const model::Weights& weights = model.weights();
  Layers layers;
  layers.embeddings = linear_of(weights.embeddings);
  for (const model::BlockWeights& block : weights.blocks) {
    layers.blocks.push_back({.attention_norm = cpu::float_values(block.attention_norm),
                             .mlp_norm = cpu::float_values(block.mlp_norm),
                             .q_norm = optional_values(block.q_norm),
                             .k_norm = optional_values(block.k_norm),
                             .qkv = linears_of(block.qkv),
                             .gate_up = linears_of(block.gate_up),
                             .output = linear_of(block.output),
                             .down = linear_of(block.down)});
  }
  layers.final_norm = cpu::float_values(weights.final_norm);
  if (weights.head) layers.head = linear_of(*weights.head);
  return layers;
}

}  // namespace optiq::engine
