// What an estimator that goes stage by stage leaves of a finished stage: a record of the journal.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "delta_store.h"

namespace optiq::profile {

/// What was measured in all: of each sample one value of every (module, option), modules in order, options in
/// the order of Subject::formats, then those of the KV cache (cache_options.h); the modules' importance, and
/// their tokens' weights.
struct Measured {
  std::vector<std::vector<float>> samples;
  Importance importance;
  TokenWeights weights;
};

/// No values yet: zeros. `values`: sample_size().
Measured nothing_measured(std::size_t samples, std::size_t values);

struct StageRecord {
  Importance importance;      ///< of the stage's modules that have inputs
  TokenWeights weights;       ///< of these inputs, where the encoder uses any
  std::vector<float> values;  ///< of each of the stage's subjects, of each option, of each sample; then,
                              ///< where caches are priced, those of the block's keys and of its values
};

/// `own`: the stage's subjects, by their places among all.
std::vector<std::byte> to_bytes(const StageRecord& record, const std::vector<Subject>& subjects,
                                std::span<const std::size_t> own);
/// The record that to_bytes made.
StageRecord stage_record(std::span<const std::byte> bytes, const std::vector<Subject>& subjects,
                         std::span<const std::size_t> own);

/// Adds a stage's values to those of the same modules, and notes its importance.
void add_stage(const StageRecord& record, const std::vector<Subject>& subjects,
               std::span<const std::size_t> own, Measured& measured);

/// The subjects of a block, or outside the blocks (model::kOutsideBlocks).
std::vector<std::size_t> subjects_of_stage(const std::vector<Subject>& subjects, std::int64_t layer);

}  // namespace optiq::profile
