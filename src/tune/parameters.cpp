#include "parameters.h"

#include <cmath>

namespace optiq::tune {
namespace {

constexpr float kFirstDecay = 0.9f;
constexpr float kSecondDecay = 0.95f;
constexpr float kTiny = 1e-12f;

mx::array as_stored(const mx::array& values, mx::Dtype dtype) {
  return mx::astype(mx::astype(values, dtype), mx::float32);
}

mx::array blend(const mx::array& old, const mx::array& fresh, float decay) {
  return mx::multiply(old, mx::array(decay)) + mx::multiply(fresh, mx::array(1 - decay));
}

const kernels::QuantizedWeight* quantized_module(const model::Weights& weights, const std::string& name) {
  const kernels::QuantizedWeight* found = nullptr;
  const auto look = [&](const model::Module& module) {
    if (module.name == name) found = std::get_if<kernels::QuantizedWeight>(&module.weight);
  };
  look(weights.embeddings);
  if (weights.head) look(*weights.head);
  for (const model::BlockWeights& block : weights.blocks) {
    for (const model::Module& module : block.qkv) look(module);
    for (const model::Module& module : block.gate_up) look(module);
    look(block.output);
    look(block.down);
  }
  return found;
}

}  // namespace

std::vector<Pairs> trainable_pairs(const model::Model& model, int most_bits) {
  std::vector<Pairs> pairs;
  for (const model::ModuleShape& shape : model.modules()) {
    const kernels::QuantizedWeight* stored = quantized_module(model.weights(), shape.name);
    if (stored == nullptr || stored->bits > most_bits) continue;
    pairs.push_back({shape.name, shape.layer, *stored, mx::astype(stored->scales, mx::float32),
                     mx::astype(stored->biases, mx::float32)});
  }
  return pairs;
}

mx::array weight_of(const Pairs& pairs, const mx::array& scales, const mx::array& biases) {
  kernels::QuantizedWeight weight = pairs.stored;
  weight.scales = as_stored(scales, pairs.stored.scales.dtype());
  weight.biases = as_stored(biases, pairs.stored.scales.dtype());
  return kernels::dequantize(weight);
}

Adam::Adam(const std::vector<Pairs>& pairs) {
  for (const Pairs& p : pairs) {
    unit_.push_back(mx::abs(p.scales));
    const mx::array zero = mx::zeros_like(p.scales);
    first_.push_back({zero, zero});
    second_.push_back({zero, zero});
  }
}

std::vector<mx::array*> Adam::moments() {
  std::vector<mx::array*> all;
  for (auto* order : {&first_, &second_}) {
    for (PairGradients& moments : *order) {
      all.push_back(&moments.scales);
      all.push_back(&moments.biases);
    }
  }
  return all;
}

Status Adam::step(std::vector<Pairs>& pairs, const std::vector<PairGradients>& gradients,
                  double learning_rate) {
  ++steps_;
  const auto correction = [&](float decay) { return 1 - std::pow(decay, static_cast<float>(steps_)); };
  // The gradient in units of the step: moments then do not depend on a group's scale.
  const auto advance = [&](mx::array& value, mx::array& first, mx::array& second, const mx::array& gradient,
                           const mx::array& unit) {
    const mx::array scaled = mx::multiply(gradient, unit);
    first = blend(first, scaled, kFirstDecay);
    second = blend(second, mx::square(scaled), kSecondDecay);
    const mx::array root = mx::sqrt(mx::divide(second, mx::array(correction(kSecondDecay))));
    const mx::array direction =
        mx::divide(first, mx::multiply(root + mx::array(kTiny), mx::array(correction(kFirstDecay))));
    value = mx::subtract(
        value, mx::multiply(direction, mx::multiply(unit, mx::array(static_cast<float>(learning_rate)))));
  };
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const auto half_range = static_cast<float>((1 << pairs[i].stored.bits) - 1) / 2;
    advance(pairs[i].scales, first_[i].scales, second_[i].scales, gradients[i].scales, unit_[i]);
    advance(pairs[i].biases, first_[i].biases, second_[i].biases, gradients[i].biases,
            mx::multiply(unit_[i], mx::array(half_range)));
    OPTIQ_CHECK(model::evaluate({pairs[i].scales, pairs[i].biases, first_[i].scales, first_[i].biases,
                                 second_[i].scales, second_[i].biases}));
  }
  return {};
}

}  // namespace optiq::tune
