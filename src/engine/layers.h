// A model's weights as the CPU kernels read them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "optiq/kernels/cpu.h"
#include "optiq/model/model.h"

namespace optiq::engine {

namespace cpu = kernels::cpu;

/// One linear layer.
struct Linear {
  std::string name;
  cpu::Matrix matrix;
  std::vector<float> bias;  ///< [out], or empty

  [[nodiscard]] cpu::Use into(float* y, std::size_t stride, bool accumulate = false) const {
    return {&matrix, bias.empty() ? nullptr : bias.data(), y, stride, accumulate};
  }
};

/// One block: norms in f32; qkv and gate_up hold one fused matrix or several.
struct Layer {
  std::vector<float> attention_norm, mlp_norm;
  std::vector<float> q_norm, k_norm;  ///< [head_dim], or empty
  std::vector<Linear> qkv, gate_up;
  Linear output, down;
};

struct Layers {
  Linear embeddings;
  std::vector<Layer> blocks;
  std::vector<float> final_norm;
  std::optional<Linear> head;  ///< none where it is the embeddings
};

/// Matrices point into the model's mapping: keep a copy of the model.
Layers layers_of(const model::Model& model);

}  // namespace optiq::engine
