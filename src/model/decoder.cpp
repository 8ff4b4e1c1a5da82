// One block for every family: what differs between them is in Family and ModelConfig.
#include "decoder.h"

#include <cmath>
#include <stdexcept>
#include <tuple>

#include "cache.h"

namespace optiq::model {
namespace {

using ByModule = std::unordered_map<std::string, mx::array>;

const mx::array* find(const ByModule* arrays, const std::string& module) {
  if (arrays == nullptr) return nullptr;
  const auto found = arrays->find(module);
  return found == arrays->end() ? nullptr : &found->second;
}

mx::array product(const Module& module, const mx::array& x, const Pass& pass) {
  if (const mx::array* weight = find(pass.weights, module.name)) {
    return kernels::linear(x, *weight, module.bias, pass.compute);
  }
  if (const auto* quantized = std::get_if<kernels::QuantizedWeight>(&module.weight)) {
    return kernels::quantized_linear(x, *quantized, module.bias, pass.compute);
  }
  return kernels::linear(x, std::get<mx::array>(module.weight), module.bias, pass.compute);
}

mx::array apply(const Module& module, const mx::array& x, const Pass& pass) {
  if (pass.tap) pass.tap(module.name, x);
  const mx::array* shift = find(pass.shifts, module.name);
  return shift == nullptr ? product(module, x, pass) : product(module, x, pass) + *shift;
}

/// The outputs of several modules over one input, or the parts (`sizes` wide) of a single fused one.
std::vector<mx::array> project(const std::vector<Module>& modules, const mx::array& x, const mx::Shape& sizes,
                               const Pass& pass) {
  std::vector<mx::array> outputs;
  for (const Module& module : modules) outputs.push_back(apply(module, x, pass));
  if (outputs.size() == sizes.size()) return outputs;
  mx::Shape cuts(sizes.begin(), sizes.end() - 1);
  for (std::size_t i = 1; i < cuts.size(); ++i) cuts[i] += cuts[i - 1];
  return mx::split(outputs.front(), cuts, -1);
}

int as_int(std::int64_t value) {
  return static_cast<int>(value);
}

/// [batch, T, heads·head_dim] → [batch, heads, T, head_dim], each head normalised where the family does so.
mx::array to_heads(const mx::array& x, std::int64_t heads, const std::optional<mx::array>& norm,
                   const ModelConfig& config) {
  mx::array split = mx::reshape(x, {x.shape(0), x.shape(1), as_int(heads), as_int(config.head_dim)});
  if (norm) split = kernels::rms_norm(split, *norm, config.norm_epsilon);
  return mx::transpose(split, {0, 2, 1, 3});
}

mx::array from_heads(const mx::array& x) {
  return mx::reshape(mx::transpose(x, {0, 2, 1, 3}), {x.shape(0), x.shape(2), x.shape(1) * x.shape(3)});
}

mx::array rotate(const mx::array& x, const Decoder& decoder, int offset) {
  const bool beyond =
      decoder.long_frequencies && offset + x.shape(2) > decoder.config.rope.original_positions;
  return kernels::rope(x, beyond ? *decoder.long_frequencies : decoder.frequencies, offset,
                       decoder.config.rope.magnitude);
}

mx::array attention(const Decoder& decoder, std::int64_t layer, const mx::array& x, const Pass& pass) {
  const ModelConfig& config = decoder.config;
  const BlockWeights& block = decoder.weights.blocks[static_cast<std::size_t>(layer)];
  LayerCache* cache = pass.cache == nullptr ? nullptr : &pass.cache->at(static_cast<std::size_t>(layer));
  const int offset = cache == nullptr ? 0 : cache->tokens;
  const int kv_width = as_int(config.kv_heads * config.head_dim);
  const auto qkv = project(block.qkv, x, {as_int(config.heads * config.head_dim), kv_width, kv_width}, pass);
  const mx::array q = rotate(to_heads(qkv[0], config.heads, block.q_norm, config), decoder, offset);
  KeysValues kv{rotate(to_heads(qkv[1], config.kv_heads, block.k_norm, config), decoder, offset),
                to_heads(qkv[2], config.kv_heads, std::nullopt, config)};
  if (pass.cached) std::tie(kv.keys, kv.values) = pass.cached(kv.keys, kv.values);
  const int window = as_int(config.window(layer));
  const float scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim));
  const mx::array mixed = cache == nullptr ? kernels::attention(q, kv.keys, kv.values, scale, window)
                                           : attend(*cache, q, kv, scale, window);
  return apply(block.output, from_heads(mixed), pass);
}

mx::array mlp(const Decoder& decoder, const BlockWeights& block, const mx::array& x, const Pass& pass) {
  const int width = as_int(decoder.config.intermediate);
  const auto gate_up = project(block.gate_up, x, {width, width}, pass);
  return apply(block.down, kernels::swiglu(gate_up[0], gate_up[1]), pass);
}

}  // namespace

mx::array embed(const Decoder& decoder, const mx::array& tokens, const Pass& pass) {
  if (tokens.ndim() != 2) {
    throw std::invalid_argument(
        fmt::format("embed: tokens: expected [batch, tokens], got {} axes", tokens.ndim()));
  }
  const Module& table = decoder.weights.embeddings;
  const auto* quantized = std::get_if<kernels::QuantizedWeight>(&table.weight);
  const mx::array* weight = find(pass.weights, table.name);
  if (weight == nullptr && quantized == nullptr) weight = &std::get<mx::array>(table.weight);
  mx::array rows = weight != nullptr ? kernels::embedding(tokens, *weight)
                                     : kernels::quantized_embedding(tokens, *quantized);
  // Who measures wants f32; who generates on a GPU, its speed.
  if (pass.cache == nullptr || mx::default_device() == mx::Device::cpu) return rows;
  return mx::astype(
      rows, quantized != nullptr ? quantized->scales.dtype() : std::get<mx::array>(table.weight).dtype());
}

mx::array block(const Decoder& decoder, std::int64_t layer, const mx::array& hidden, const Pass& pass) {
  const BlockWeights& weights = decoder.weights.blocks.at(static_cast<std::size_t>(layer));
  const float epsilon = decoder.config.norm_epsilon;
  const mx::array mixed =
      hidden + attention(decoder, layer, kernels::rms_norm(hidden, weights.attention_norm, epsilon), pass);
  return mixed + mlp(decoder, weights, kernels::rms_norm(mixed, weights.mlp_norm, epsilon), pass);
}

mx::array head(const Decoder& decoder, const mx::array& hidden, const Pass& pass) {
  const Weights& weights = decoder.weights;
  const mx::array normed = kernels::rms_norm(hidden, weights.final_norm, decoder.config.norm_epsilon);
  return apply(weights.head ? *weights.head : weights.embeddings, normed, pass);
}

}  // namespace optiq::model
