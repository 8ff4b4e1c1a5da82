// Every tensor of a decoder as an mx::array over the checkpoint's mapping, checked against the configuration.
#pragma once

#include <mlx/mlx.h>

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "optiq/kernels/ops.h"
#include "optiq/quant/format.h"

namespace optiq::model {

namespace mx = mlx::core;

/// One linear layer or embedding table.
struct Module {
  std::string name;
  quant::Format format{.bits = 16, .group_size = 0};
  std::variant<mx::array, kernels::QuantizedWeight> weight;  ///< dense [out, in], or the three packed tensors
  std::optional<mx::array> bias;                             ///< [out]
};

/// One block. qkv holds q, k, v or the fused one; gate_up holds gate, up or the fused one.
struct BlockWeights {
  mx::array attention_norm;         ///< [hidden]
  mx::array mlp_norm;               ///< [hidden]
  std::optional<mx::array> q_norm;  ///< [head_dim]
  std::optional<mx::array> k_norm;  ///< [head_dim]
  std::vector<Module> qkv;
  Module output;
  std::vector<Module> gate_up;
  Module down;
};

struct Weights {
  Module embeddings;
  std::vector<BlockWeights> blocks;
  mx::array final_norm;        ///< [hidden]
  std::optional<Module> head;  ///< absent where tied
  std::vector<std::string> unused_tensors;
};

}  // namespace optiq::model
