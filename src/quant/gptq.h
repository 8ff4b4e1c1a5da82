// Error-compensating encoding of 32 rows at a time (encoder.h, Encoder::gptq).
#pragma once

#include <span>
#include <vector>

#include "group.h"
#include "optiq/quant/format.h"
#include "optiq/quant/gram.h"
#include "tile.h"

namespace optiq::quant {

/// Encodes up to kTileLanes rows of a matrix, one a lane; memory is reused from slab to slab.
class GptqSlab {
 public:
  struct GroupView;

  GptqSlab(const GramFactor& factor, Format format, DType scales_dtype);

  /// Row `lane` of the slab. Lanes that are not set are encoded as zeros.
  void set_row(std::size_t lane, std::span<const float> weights);
  /// Chooses scales, biases and levels of all lanes.
  void encode();
  /// The levels of a row in the file's order ([in]), and its stored pairs, one a group.
  void row(std::size_t lane, std::span<std::uint8_t> q, std::span<Affine> affine) const;

 private:
  using Lane = float[kTileLanes];

  GroupView view(std::size_t group, const std::vector<float>& matrix);
  void gather(std::size_t group, const std::vector<float>& matrix, std::size_t depth, const float* start);
  void choose_affine(std::size_t group);
  void sweep(std::size_t group);
  [[nodiscard]] std::size_t in() const { return factor_.order.size(); }

  const GramFactor& factor_;
  Format format_;
  DType dtype_;
  std::vector<float> weights_;  ///< [in, lanes], inputs in the factor's order
  std::vector<float> errors_;   ///< likewise: weight minus what is stored
  std::vector<float> levels_;   ///< likewise
  std::vector<float> scratch_;  ///< [group, lanes]: compensated weights, or the gradient of the error
  std::vector<float> scales_;   ///< [groups, lanes], groups in the factor's order
  std::vector<float> biases_;
};

}  // namespace optiq::quant
