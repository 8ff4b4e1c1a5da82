// Rounding that is learned by signed gradient steps (SignRound / AutoRound, arXiv 2309.05516): each weight
// has an offset in [-1/2, 1/2] that is added before it is rounded, and each group two factors that move the
// ends of its range.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "optiq/quant/encoder.h"

namespace optiq::quant {

/// How far one step goes.
struct RoundingStep {
  float offset = 0;  ///< of a weight, in levels
  float range = 0;   ///< of an end of a group's range, as a share of that range's width at the start
};

/// One matrix while its rounding is learned. It starts from an encoded matrix and keeps its format; whoever
/// holds it has the loss and gives the gradient.
class LearnedRounding {
 public:
  /// `weights`: the full-precision matrix; `start`: encoded from it, and what dequantize and encoded give
  /// until the first step, to the bit. A level that `start` chose against plain rounding (as `gptq` does)
  /// keeps a tenth of a level's distance from its neighbour. Memory: 8 bytes a weight. bad_input (naming
  /// `tensor`) where the shapes differ or a weight is not finite.
  static Result<LearnedRounding> make(const MatrixView& weights, const QuantizedMatrix& start,
                                      std::string_view tensor);

  /// The matrix that the file would give, f32 [out, in].
  void dequantize(std::span<float> values) const;

  /// Moves every offset and every end of a range one step against `gradient`, that of the loss by the
  /// dequantized matrix, f32 [out, in]: rounding passes it on unchanged (a straight-through estimator). A
  /// zero or a NaN moves nothing. Threads: rows in parallel; the result does not depend on their number.
  void step(std::span<const float> gradient, const RoundingStep& step);

  /// As it would be stored: every level in [0, 2^bits - 1], pairs rounded to the start's dtype.
  [[nodiscard]] QuantizedMatrix encoded() const;

 private:
  struct Pair {
    float scale, bias;
  };
  struct Range {
    float scale, bias;        ///< at the start, as stored
    float low = 0, high = 0;  ///< how far the values of the lowest and the highest level have moved, by width
  };
  LearnedRounding(std::int64_t out_features, std::int64_t in_features, Format format, DType dtype);
  [[nodiscard]] std::size_t in() const { return static_cast<std::size_t>(in_features_); }
  [[nodiscard]] std::size_t group() const { return static_cast<std::size_t>(format_.group_size); }
  [[nodiscard]] float top() const { return static_cast<float>((1 << format_.bits) - 1); }
  void start_row(std::size_t row, std::span<const float> weights, const QuantizedMatrix& start);
  void step_group(std::size_t group, std::span<const float> gradient, const RoundingStep& step);
  [[nodiscard]] float level(std::size_t index) const;
  [[nodiscard]] Pair pair(const Range& range) const;

  std::int64_t out_features_, in_features_;
  Format format_;
  DType dtype_;
  std::vector<float> wanted_;   ///< [out, in]: the level before rounding, at the start
  std::vector<float> offsets_;  ///< [out, in]: what is learned of it
  std::vector<Range> ranges_;   ///< [out, groups]
};

}  // namespace optiq::quant
