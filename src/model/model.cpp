#include "optiq/model/model.h"

#include <algorithm>
#include <stdexcept>

#include "decoder.h"
#include "load_weights.h"
#include "no_throw.h"

namespace optiq::model {

struct Model::State {
  io::Checkpoint checkpoint;
  Decoder decoder;
  std::vector<ModuleShape> modules;
  std::unordered_map<std::string, const Module*> by_name;  ///< into decoder.weights
};

namespace {

void index(const Weights& weights, std::unordered_map<std::string, const Module*>& by_name) {
  const auto add = [&](const Module& module) { by_name.emplace(module.name, &module); };
  add(weights.embeddings);
  for (const BlockWeights& block : weights.blocks) {
    for (const Module& module : block.qkv) add(module);
    for (const Module& module : block.gate_up) add(module);
    add(block.output);
    add(block.down);
  }
  if (weights.head) add(*weights.head);
}

mx::array frequency_array(const std::vector<float>& frequencies) {
  return mx::array(frequencies.begin(), {static_cast<int>(frequencies.size())}, mx::float32);
}

Decoder make_decoder(ModelConfig config, Weights weights) {
  mx::array frequencies = frequency_array(config.rope.inverse_frequencies);
  std::optional<mx::array> beyond;
  if (!config.rope.long_inverse_frequencies.empty())
    beyond = frequency_array(config.rope.long_inverse_frequencies);
  return {std::move(config), std::move(weights), std::move(frequencies), std::move(beyond)};
}

}  // namespace

Result<Model> Model::open(const std::filesystem::path& folder, Access access) {
  OPTIQ_TRY(io::Checkpoint checkpoint, io::Checkpoint::open(folder, access));
  OPTIQ_TRY(ModelConfig config, parse_config(checkpoint.config(), (folder / "config.json").string()));
  OPTIQ_TRY(Weights weights, load_weights(checkpoint, config));
  std::vector<ModuleShape> modules = module_shapes(config);
  auto state = std::make_shared<State>(State{
      std::move(checkpoint), make_decoder(std::move(config), std::move(weights)), std::move(modules), {}});
  index(state->decoder.weights, state->by_name);
  return Model(std::move(state));
}

const ModelConfig& Model::config() const {
  return state_->decoder.config;
}

const Weights& Model::weights() const {
  return state_->decoder.weights;
}

const io::Checkpoint& Model::checkpoint() const {
  return state_->checkpoint;
}

const std::vector<ModuleShape>& Model::modules() const {
  return state_->modules;
}

const std::vector<std::string>& Model::unused_tensors() const {
  return state_->decoder.weights.unused_tensors;
}

quant::Format Model::format(const std::string& module) const {
  return state_->by_name.at(module)->format;
}

Result<mx::array> Model::dense_weight(const std::string& module) const {
  const auto found = state_->by_name.find(module);
  const std::string folder = state_->checkpoint.folder().string();
  if (found == state_->by_name.end()) return fail(ErrorCode::bad_input, "{}: no module {}", folder, module);
  if (const auto* weight = std::get_if<mx::array>(&found->second->weight)) return *weight;
  return fail(ErrorCode::bad_input, "{}: module {}: expected a dense weight, it is quantized ({})", folder,
              module, quant::to_string(found->second->format));
}

KvCache Model::make_cache(const std::vector<kernels::cpu::CacheFormat>& formats) const {
  KvCache cache(static_cast<std::size_t>(config().layers));
  if (formats.empty()) return cache;
  if (formats.size() != cache.size())
    throw std::invalid_argument(
        fmt::format("KV cache: expected the formats of {} blocks, got {}", cache.size(), formats.size()));
  for (std::size_t i = 0; i < cache.size(); ++i) {
    if (const auto fits = check_cache_format(formats[i], config().head_dim); !fits)
      throw std::invalid_argument(fits.error().message);
    cache[i].format = formats[i];
  }
  return cache;
}

mx::array Model::embed(const mx::array& tokens, const Pass& pass) const {
  return model::embed(state_->decoder, tokens, pass);
}

mx::array Model::block(std::int64_t layer, const mx::array& hidden, const Pass& pass) const {
  return model::block(state_->decoder, layer, hidden, pass);
}

mx::array Model::head(const mx::array& hidden, const Pass& pass) const {
  return model::head(state_->decoder, hidden, pass);
}

mx::array Model::forward(const mx::array& tokens, const Pass& pass) const {
  mx::array hidden = embed(tokens, pass);
  for (std::int64_t layer = 0; layer < config().layers; ++layer) hidden = block(layer, hidden, pass);
  return head(hidden, pass);
}

Status evaluate(std::vector<mx::array> arrays) {
  return no_throw("evaluating", [&] { mx::eval(std::move(arrays)); });
}

std::int64_t parameter_count(const Model& model) {
  std::int64_t parameters = 0;
  for (const auto& module : model.modules()) parameters += module.out_features * module.in_features;
  for (const auto& [name, tensor] : model.checkpoint().tensors()) {
    const std::string module = name.substr(0, name.rfind('.'));
    const bool counted =
        std::ranges::any_of(model.modules(), [&](const auto& m) { return m.name == module; });
    if (!counted || name.ends_with(".bias")) parameters += tensor.elements();
  }
  return parameters;
}

}  // namespace optiq::model
