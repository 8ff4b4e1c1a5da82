// Learned rounding of an encoded checkpoint, block by block: the levels and ranges of its modules of few bits
// are moved by signed gradient steps until the block's output, on what the blocks before it really give, is
// closest to that of the full-precision model (AutoRound, arXiv 2309.05516; started from what the encoder
// chose). The format and the file's size do not change.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "optiq/base/json.h"
#include "optiq/base/progress.h"
#include "optiq/calibrate/calibrate.h"
#include "optiq/model/model.h"

namespace optiq::tune {

struct RoundOptions {
  int most_bits = 3;                 ///< modules of more bits stay
  std::int64_t steps = 25;           ///< of each block
  std::int64_t batch_sequences = 4;  ///< of one step
  double offset_rate = 0.02;         ///< levels that one step moves an offset by; falls linearly to zero
  double range_rate = 0.005;         ///< likewise for the ends of a group's range, by its width
  std::int64_t held_out_sequences =
      8;                           ///< of the calibration set, never trained on: they decide what is kept
  std::int64_t checks = 5;         ///< of a block's held-out error, after the one at the beginning
  std::int64_t kept_tokens = 128;  ///< of each position of the reference; the others count as one
  kernels::Compute compute = kernels::Compute::bf16;
};

struct RoundResult {
  /// Mean squared error of one block's outputs on the held-out sequences, each token's divided by the mean
  /// square of what the full-precision model gives.
  struct Block {
    std::int64_t layer;
    double before, after;
  };
  std::vector<Block> blocks;                           ///< those with a module of few enough bits
  double divergence_before = 0, divergence_after = 0;  ///< KL a token on the held-out sequences
  bool is_kept = false;    ///< whether the divergence fell: otherwise the checkpoint is as it was
  std::int64_t steps = 0;  ///< of each block
};
/// As `--json` shows it; read back, doubles are the same. bad_input for a member that is missing or no finite
/// number.
Json round_to_json(const RoundResult& result);
Result<RoundResult> round_from_json(const Json& json, const std::string& where);

/// Refines the checkpoint `folder` (that encode::encode_checkpoint wrote) and swaps it with the result, whole
/// or not at all. A block keeps its best state by the held-out error; the whole is kept if the held-out
/// divergence falls. Deterministic, whatever the number of threads. Every finished block goes to a journal,
/// hidden beside the folder: after a kill the same call only passes the sequences through finished blocks
/// (twice a block), and gives the same bytes. Memory: the hidden states of all sequences twice (f32), 16
/// bytes a weight and the gradients and activations of one block, and the tensors that change. Cost: some
/// steps · batch_sequences / sequences · 3 + 2 forward passes over the batch. Errors: usage for options out
/// of range, bad_input where the two models do not fit each other or there are too few sequences.
Result<RoundResult> learn_rounding(const std::filesystem::path& folder, const model::Model& reference,
                                   const calibrate::TokenBatch& batch, const RoundOptions& options,
                                   const Progress& progress);

}  // namespace optiq::tune
