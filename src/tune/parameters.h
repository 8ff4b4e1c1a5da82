// What is trained: the scales and biases of a model's quantized modules.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "optiq/model/model.h"

namespace optiq::tune {

namespace mx = model::mx;

/// One module's pairs, in f32, and the levels they belong to. Stored ones are rounded to `dtype`, and so they
/// are wherever the model is computed.
struct Pairs {
  std::string module;
  std::int64_t layer;               ///< -1: embeddings or head
  kernels::QuantizedWeight stored;  ///< as the checkpoint has it
  mx::array scales, biases;         ///< f32 [out, groups]
};

/// Gradients or moments, parallel to Pairs: of scales, of biases.
struct PairGradients {
  mx::array scales, biases;
};

/// Every quantized module of at most `most_bits`, in the model's order.
std::vector<Pairs> trainable_pairs(const model::Model& model, int most_bits);

/// The dense weight that these pairs give, f32 [out, in]; differentiable in them.
mx::array weight_of(const Pairs& pairs, const mx::array& scales, const mx::array& biases);

/// Adam with steps relative to each scale as it was at the beginning: a step of 1 moves a scale by itself,
/// and a bias by half the group's range.
class Adam {
 public:
  explicit Adam(const std::vector<Pairs>& pairs);
  /// Moves `pairs` against `gradients`.
  Status step(std::vector<Pairs>& pairs, const std::vector<PairGradients>& gradients, double learning_rate);

  /// Its state: the moments of all pairs, and how many steps were taken.
  std::vector<mx::array*> moments();
  void set_steps(int steps) { steps_ = steps; }

 private:
  std::vector<mx::array> unit_;  ///< |scale| at the beginning
  std::vector<PairGradients> first_, second_;
  int steps_ = 0;
};

}  // namespace optiq::tune
