// The model with its trainable pairs: its divergence from the reference, and the gradient of that.
#pragma once

#include <functional>
#include <unordered_map>

#include "parameters.h"

namespace optiq::tune {

class Student {
 public:
  Student(const model::Model& model, std::vector<Pairs>& pairs, kernels::Compute compute)
      : model_(model), pairs_(pairs), compute_(compute) {}

  /// Mean divergence a token. tokens i32 [1, T], target of T rows.
  [[nodiscard]] Result<double> divergence(const mx::array& tokens,
                                          const kernels::TopProbabilities& target) const;

  /// Adds its gradient to `sums` (parallel to the pairs), block by block: one forward pass, then each block
  /// again with its gradient, from the last to the first.
  Status add_gradients(const mx::array& tokens, const kernels::TopProbabilities& target,
                       std::vector<PairGradients>& sums) const;

 private:
  using Weights = std::unordered_map<std::string, mx::array>;
  using Stage = std::function<mx::array(const mx::array& input, const model::Pass& pass)>;

  /// A part of the model, and the trainable pairs in it.
  struct Part {
    Stage stage;
    std::vector<std::size_t> pairs;
  };
  [[nodiscard]] Part embedding() const;
  [[nodiscard]] Part block(std::int64_t layer) const;
  [[nodiscard]] Part loss(const kernels::TopProbabilities& target) const;
  template <class Predicate>
  [[nodiscard]] std::vector<std::size_t> pairs_where(const Predicate& predicate) const;
  [[nodiscard]] Result<mx::array> run(const Part& part, const mx::array& input) const;
  [[nodiscard]] Result<std::vector<mx::array>> hidden_states(const mx::array& tokens) const;
  /// Adds the part's gradients; returns that of its input, or the input itself where that has none (tokens).
  Result<mx::array> backward(const Part& part, const mx::array& input, const mx::array& cotangent,
                             std::vector<PairGradients>& sums) const;

  const model::Model& model_;
  std::vector<Pairs>& pairs_;
  kernels::Compute compute_;
};

}  // namespace optiq::tune
