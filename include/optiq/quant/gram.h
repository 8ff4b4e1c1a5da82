// Second moments of a layer's inputs, H = mean over tokens of x·xᵀ, factored for the encoder `gptq`: what it
// costs to change several weights of a row together.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string_view>
#include <vector>

#include "optiq/base/result.h"

namespace optiq::quant {

/// H + damping·mean(diag H)·I = U·diag(D)·Uᵀ with U unit upper triangular, inputs taken in an order that
/// keeps each group together: groups by falling mean of diag H, and so the inputs in a group. So the most
/// important weights are encoded first, and a file needs no permutation.
struct GramFactor {
  std::vector<std::int32_t> order;  ///< order[k]: the input that comes k-th; a group's inputs stay neighbours
  std::vector<float> moments;       ///< [in, in] in that order, damped
  std::vector<float> upper;         ///< U, row-major [in, in] in that order; 0 below the diagonal
  std::vector<float> conditional;   ///< D: an input's variance given those that come after it; > 0
  double damping = 0;
};

/// Factors are made when they are first asked for, one for each group size; not safe for use by several
/// threads.
class Gram {
 public:
  /// `moments`: H, symmetric, row-major [in_features, in_features], f32. bad_input (naming `module`) where
  /// the size differs, in_features is no positive multiple of 32, a value is not finite or the diagonal is
  /// negative.
  static Result<Gram> make(std::vector<float> moments, std::int64_t in_features, std::string_view module);

  /// `group_size` divides in_features. Damping starts at 0.01 and grows tenfold while the matrix is not
  /// positive definite in f32. Memory: 8·in² bytes. Cost: in³/3 multiplications, threaded.
  const GramFactor& factor(int group_size) const;

  [[nodiscard]] std::int64_t in_features() const { return in_features_; }
  [[nodiscard]] const std::vector<float>& moments() const { return moments_; }

 private:
  Gram(std::vector<float> moments, std::int64_t in_features)
      : moments_(std::move(moments)), in_features_(in_features) {}

  std::vector<float> moments_;
  std::int64_t in_features_;
  mutable std::map<int, std::shared_ptr<const GramFactor>> factors_;
};

}  // namespace optiq::quant
