// Factors of input channels, searched by what they save.
#pragma once

#include "optiq/fold/fold.h"
#include "optiq/quant/gram.h"
#include "rewriter.h"

namespace optiq::fold {

/// Matrices [out, in] (f32) that share their inputs, and what is known of these.
struct Readers {
  std::vector<mx::array> weights;
  const quant::Gram* gram = nullptr;
  /// Mean square of each input channel; channels that must share a factor have it in common.
  std::vector<float> energies;
};

/// The factors of least loss, one an input channel, > 0 (Fold::awq, Options::encoder); all ones where no
/// other is better. Cost: 21 encodings of Options::rows rows of each matrix.
Result<std::vector<float>> search_factors(const Readers& readers, const Options& options, DType scales_dtype);

/// What the factors lose: Σ over matrices of tr(ΔW·A·ΔWᵀ) / tr(W·A·Wᵀ) over the rows that are looked at.
Result<double> loss_of(const Readers& readers, std::span<const float> factors, const Options& options,
                       DType scales_dtype);

/// Writes the scaled model into `folder`.
Status scale(const model::Model& model, const calibrate::TokenBatch& tokens, const Options& options,
             const std::filesystem::path& folder, const Progress& progress);

}  // namespace optiq::fold
