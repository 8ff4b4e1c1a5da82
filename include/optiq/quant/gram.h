// Second moments of a layer's inputs, H = mean over tokens of x·xᵀ, factored for the encoder `gptq`: what it
// costs to change several weights of a row together.
#pragma once

#include <cstdint>
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

/// The factor of the group size that was asked for last is kept, and takes H itself into its order: two [in,
/// in] matrices in all. So whoever encodes by several sizes takes the formats of one after those of another.
/// Not safe for use by several threads.
class Gram {
 public:
  /// `moments`: H, symmetric, row-major [in_features, in_features], f32. bad_input (naming `module`) where
  /// the size differs, in_features is no positive multiple of 32, a value is not finite or the diagonal is
  /// negative.
  static Result<Gram> make(std::vector<float> moments, std::int64_t in_features, std::string_view module);

  /// `group_size` divides in_features. Valid until another size is asked for. Damping starts at 0.01 and
  /// grows tenfold while the matrix is not positive definite in f32. Memory: 4·in² bytes more. Cost: in³/3
  /// multiplications, threaded; nothing for the size that was asked for last.
  const GramFactor& factor(int group_size) const;

  [[nodiscard]] std::int64_t in_features() const { return static_cast<std::int64_t>(diagonal_.size()); }
  /// H's diagonal: the mean square of each input.
  [[nodiscard]] const std::vector<float>& diagonal() const { return diagonal_; }
  /// A copy of H.
  [[nodiscard]] std::vector<float> moments() const;

 private:
  Gram(std::vector<float> moments, std::int64_t in_features);

  std::vector<float> diagonal_;
  mutable int group_size_ =
      0;  ///< 0: nothing was factored yet; the order is the file's, and nothing is damped
  mutable GramFactor factor_;
};

}  // namespace optiq::quant
