// Calibration sequences on their way through a model, stage by stage: every weight is read once for all of
// them.
#pragma once

#include <functional>
#include <optional>

#include "optiq/base/progress.h"
#include "optiq/calibrate/calibrate.h"
#include "optiq/model/stream.h"

namespace optiq::profile {

/// What a walk is told and limited by; all borrowed.
struct WalkSetting {
  const model::Model& model;
  const calibrate::TokenBatch& batch;
  kernels::Compute compute;
  const MemoryLimit& memory;
  std::uint64_t least_bytes;  ///< what the job takes beside the hidden states
  std::int64_t together = 1;  ///< sequences that go through a block at once: a group
};

/// Sees the inputs of a stage's modules for one group of sequences, and then is asked to evaluate what it made of them.
struct Watch {
  std::function<void(const std::string& module, const model::mx::array& input)> tap;
  std::function<Status()> evaluate;
};

class Walk {
 public:
  /// Embeds the sequences.
  static Result<Walk> begin(const WalkSetting& setting);

  /// Takes all sequences through block `layer`, with these weights in place of its own where there are some;
  /// afterwards the hidden states are those behind it.
  Status advance(std::int64_t layer, const Watch* watch,
                 const std::unordered_map<std::string, model::mx::array>* replaced);
  /// The same, but the hidden states stay. The head (model::kOutsideBlocks) can only be watched.
  Status watch(std::int64_t layer, const Watch& watch);

  [[nodiscard]] std::size_t groups() const { return hidden_.count(); }

 private:
  Walk(const WalkSetting& setting, model::Activations hidden)
      : setting_(setting), hidden_(std::move(hidden)) {}
  Result<model::mx::array> compute(std::int64_t layer, std::size_t group, const Watch* watch,
                                   const std::unordered_map<std::string, model::mx::array>* replaced);

  WalkSetting setting_;
  model::Activations hidden_;
};

/// The stage that a walk comes to behind `layer`.
std::int64_t stage_behind(const model::Model& model, std::int64_t layer);

/// Bytes of the hidden states of all sequences.
std::uint64_t hidden_bytes(const model::Model& model, const calibrate::TokenBatch& batch);

}  // namespace optiq::profile
