// A golden model's plan, made by hand.
#pragma once

#include <algorithm>

#include "optiq/model/model.h"
#include "optiq/plan/plan.h"

namespace optiq::test {

/// Every module of the model at `format` by `encoder`.
inline plan::Plan plan_of(const model::Model& model, quant::Format format, quant::Encoder encoder) {
  plan::Plan plan;
  const model::ModelConfig& config = model.config();
  plan.model = {
      "golden",       std::string(config.family->model_type), 0, DType::bf16, config.layers, config.kv_heads,
      config.head_dim};
  for (const auto& shape : model.modules()) {
    plan::PlannedModule module{shape.name, shape.out_features, shape.in_features, shape.layer, format,
                               encoder};
    module.bytes = quant::module_bytes(shape.out_features, shape.in_features, format, DType::bf16);
    plan.modules.push_back(module);
  }
  for (const auto& [name, tensor] : model.checkpoint().tensors()) {
    plan.model.parameters += tensor.elements();
    const std::string tensor_name = name;
    const bool is_module =
        std::ranges::any_of(plan.modules, [&](const auto& m) { return m.name + ".weight" == tensor_name; });
    if (!is_module) plan.fixed.push_back({name, tensor.dtype, tensor.shape});
  }
  plan.bytes = plan::exact_bytes(plan);
  plan.bits_per_weight = static_cast<double>(plan.bytes) * 8 / static_cast<double>(plan.model.parameters);
  return plan;
}

}  // namespace optiq::test
