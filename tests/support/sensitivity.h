// Synthetic sensitivities: a small decoder's modules with costs as real ones have them.
#pragma once

#include <cmath>

#include "optiq/base/random.h"
#include "optiq/profile/sensitivity.h"

namespace optiq::test {

/// `layers` blocks of two matrices and an embedding, every format measured. fisher: projections are random
/// with a common part, so that modules interact; costs are their mean squares. Others: costs alone.
inline profile::Sensitivity random_sensitivity(Random& random, std::int64_t layers,
                                               profile::Estimator estimator = profile::Estimator::fisher,
                                               std::vector<int> bits = {2, 3, 4, 5, 6, 8},
                                               std::vector<int> groups = {32, 64, 128}) {
  constexpr std::size_t kSamples = 24;
  profile::Sensitivity all;
  all.model = {.name = "models/tiny",
               .family = "llama",
               .parameters = 0,
               .dtype = DType::bf16,
               .layers = layers,
               .kv_heads = 2,
               .head_dim = 64};
  all.estimator = estimator;
  all.calibration = {.source = "self", .sequences = kSamples, .tokens = 32, .seed = 7, .label_draws = 1};
  all.half_split_spearman = 0.9;
  const bool fisher = estimator == profile::Estimator::fisher;
  all.projection_scale = fisher ? 0.5 / 32 : 0;
  std::vector<double> common(kSamples);
  for (double& value : common) value = random.normal();

  const auto add = [&](const std::string& name, std::int64_t out, std::int64_t in, std::int64_t layer) {
    profile::ModuleSensitivity module{
        .name = name, .out_features = out, .in_features = in, .layer = layer, .options = {}};
    const double level = std::exp(random.uniform(-3, 1));
    for (const int b : bits) {
      for (const int group : groups) {
        profile::FormatCost option{
            .format = {.bits = b, .group_size = group}, .cost = 0, .standard_error = 0, .projections = {}};
        const double size =
            level * std::pow(2.0, -b) * std::pow(group, 0.15) * std::exp(0.05 * random.normal());
        option.cost = size * size;
        option.standard_error = option.cost / 10;
        if (fisher) {
          double squares = 0;
          const double sign = random.below(2) == 0 ? 1 : -1;
          for (const double shared : common) {
            const auto value = static_cast<float>(size * (random.normal() + sign * shared));
            option.projections.push_back(value);
            squares += static_cast<double>(value) * static_cast<double>(value);
          }
          option.cost = all.projection_scale * squares / kSamples;
        }
        module.options.push_back(std::move(option));
      }
    }
    all.model.parameters += out * in;
    all.modules.push_back(std::move(module));
  };
  add("model.embed_tokens", 320, 128, -1);
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    add(prefix + "self_attn.q_proj", 128, 128, layer);
    add(prefix + "mlp.down_proj", 128, 384, layer);
    all.fixed.push_back({prefix + "input_layernorm.weight", DType::bf16, {128}});
    all.model.parameters += 128;
  }
  return all;
}

/// Keys and values of every block at `bits`, for a random_sensitivity; keys cost more than values.
inline void add_random_caches(Random& random, profile::Sensitivity& all,
                              const std::vector<int>& bits = {3, 4, 5, 6, 8}) {
  using kernels::cpu::CachePart;
  for (std::int64_t layer = 0; layer < all.model.layers; ++layer) {
    for (const CachePart part : {CachePart::keys, CachePart::values}) {
      profile::CacheSensitivity cache{layer, part, {}};
      const double level = std::exp(random.uniform(-3, part == CachePart::keys ? 1 : 0));
      for (const int b : bits) {
        profile::FormatCost option{.format = {b, 64}, .cost = 0, .standard_error = 0, .projections = {}};
        const double size = level * std::pow(2.0, -b) * std::exp(0.05 * random.normal());
        option.cost = size * size;
        for (std::size_t s = 0; s < all.samples(); ++s)
          option.projections.push_back(static_cast<float>(size * random.normal()));
        if (all.samples() > 0) {
          double squares = 0;
          for (const float value : option.projections)
            squares += static_cast<double>(value) * static_cast<double>(value);
          option.cost = all.projection_scale * squares / static_cast<double>(all.samples());
        }
        option.standard_error = option.cost / 10;
        cache.options.push_back(std::move(option));
      }
      all.caches.push_back(std::move(cache));
    }
  }
}

}  // namespace optiq::test
