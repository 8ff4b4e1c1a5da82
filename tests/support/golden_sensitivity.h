// A golden model's sensitivities, made by hand.
#pragma once

#include <functional>

#include "support/golden_plan.h"

namespace optiq::test {

/// As `mse` gives them, at 2, 4 and 8 bits: cost(module index, bits).
inline profile::Sensitivity sensitivity_of(const model::Model& model,
                                           const std::function<double(std::size_t, int)>& cost) {
  const plan::Plan plan = plan_of(model, {4, 32}, quant::Encoder::range);
  profile::Sensitivity result;
  result.model = plan.model;
  result.fixed = plan.fixed;
  result.estimator = profile::Estimator::mse;
  result.encoder = quant::Encoder::range;
  result.calibration = {"self", 8, 16, 0, 0};
  for (std::size_t i = 0; i < plan.modules.size(); ++i) {
    const auto& m = plan.modules[i];
    profile::ModuleSensitivity module{m.name, m.out_features, m.in_features, m.layer, {}};
    for (const int bits : {2, 4, 8}) module.options.push_back({{bits, 32}, cost(i, bits), 0, {}});
    result.modules.push_back(std::move(module));
  }
  return result;
}

}  // namespace optiq::test
