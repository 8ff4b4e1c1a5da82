// Plans carried out only to be measured.
#pragma once

#include <filesystem>
#include <span>
#include <vector>

#include "optiq/calibrate/calibrate.h"
#include "optiq/evaluate/evaluate.h"
#include "optiq/plan/plan.h"

namespace optiq::evaluate {

/// The checkpoint in `folder`, read as `reference` is, on each of the texts, in windows of its tokens a sequence,
/// against `reference`.
Result<std::vector<Quality>> measure_folder(const std::filesystem::path& folder,
                                            const model::Model& reference,
                                            std::span<const calibrate::TokenBatch> texts,
                                            const Progress& progress = {}, const MemoryLimit& memory = {});

/// What is to be written and measured.
struct Trial {
  const plan::Plan& plan;
  const model::Model& source;  ///< whose weights are encoded: the reference, or one that computes the same
  /// The profile's file for encoders that need it (encode::read_calibration); may be empty.
  std::filesystem::path activations;
};

/// Writes the plan's checkpoint into `folder`, measures it (measure_folder) and removes the folder again,
/// whatever happened. What was in `folder` before is lost.
Result<std::vector<Quality>> measure_trial(const Trial& trial, const model::Model& reference,
                                           std::span<const calibrate::TokenBatch> texts,
                                           const std::filesystem::path& folder,
                                           const Progress& progress = {}, const MemoryLimit& memory = {});

}  // namespace optiq::evaluate
