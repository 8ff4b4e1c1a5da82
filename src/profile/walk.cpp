#include "walk.h"

#include <algorithm>

namespace optiq::profile {
namespace {

namespace mx = model::mx;

std::uint64_t bytes_of_sequence(const model::Model& model, std::int64_t tokens) {
  return static_cast<std::uint64_t>(tokens) * static_cast<std::uint64_t>(model.config().hidden) *
         sizeof(float);
}

}  // namespace

Result<Walk> Walk::begin(const WalkSetting& setting) {
  const std::int64_t sequences = setting.batch.sequences, together = setting.together;
  const auto count = static_cast<std::size_t>((sequences + together - 1) / together);
  const std::uint64_t bytes =
      bytes_of_sequence(setting.model, setting.batch.tokens) * static_cast<std::uint64_t>(together);
  OPTIQ_TRY(auto hidden, model::make_activations(count, bytes, setting.least_bytes, setting.memory));
  Walk walk(setting, std::move(hidden));
  const model::StageWeights weights(setting.model, model::kOutsideBlocks, 0);
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t first = static_cast<std::int64_t>(i) * together;
    const mx::array tokens = setting.batch.array(first, std::min(together, sequences - first));
    OPTIQ_CHECK(walk.hidden_.put(i, setting.model.embed(tokens, {.compute = setting.compute})));
  }
  return walk;
}

Result<mx::array> Walk::compute(std::int64_t layer, std::size_t group, const Watch* watch,
                                const std::unordered_map<std::string, mx::array>* replaced) {
  OPTIQ_TRY(const mx::array hidden, hidden_.get(group));
  model::Pass pass{.compute = setting_.compute, .weights = replaced};
  if (watch != nullptr) pass.tap = watch->tap;
  mx::array output = layer == model::kOutsideBlocks ? setting_.model.head(hidden, pass)
                                                    : setting_.model.block(layer, hidden, pass);
  if (watch != nullptr) OPTIQ_CHECK(watch->evaluate());
  return output;
}

Status Walk::advance(std::int64_t layer, const Watch* watch,
                     const std::unordered_map<std::string, mx::array>* replaced) {
  const model::StageWeights weights(setting_.model, layer, stage_behind(setting_.model, layer));
  for (std::size_t i = 0; i < hidden_.count(); ++i) {
    OPTIQ_TRY(mx::array output, compute(layer, i, watch, replaced));
    OPTIQ_CHECK(hidden_.put(i, std::move(output)));
  }
  return {};
}

Status Walk::watch(std::int64_t layer, const Watch& watch) {
  const model::StageWeights weights(setting_.model, layer, std::nullopt);
  for (std::size_t i = 0; i < hidden_.count(); ++i) OPTIQ_CHECK(compute(layer, i, &watch, nullptr));
  return {};
}

std::int64_t stage_behind(const model::Model& model, std::int64_t layer) {
  return layer + 1 < model.config().layers ? layer + 1 : model::kOutsideBlocks;
}

std::uint64_t hidden_bytes(const model::Model& model, const calibrate::TokenBatch& batch) {
  return static_cast<std::uint64_t>(batch.sequences) * bytes_of_sequence(model, batch.tokens);
}

}  // namespace optiq::profile
