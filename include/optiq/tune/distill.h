// Distillation of scales and biases: the levels of an encoded checkpoint stay, and each group's pair is
// trained until the model's next-token distribution is closest to the reference's (as EfficientQAT's second
// phase, arXiv 2407.11062, and mlx-lm's DWQ do). The format and the file's size do not change.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "optiq/base/json.h"
#include "optiq/base/progress.h"
#include "optiq/calibrate/calibrate.h"
#include "optiq/model/model.h"

namespace optiq::tune {

struct DistillOptions {
  std::int64_t epochs = 2;
  std::int64_t batch_sequences = 2;  ///< of one step
  double learning_rate = 1.5e-4;     ///< of a pair, relative to its scale; falls to zero along a cosine
  std::int64_t kept_tokens = 128;    ///< of each position of the reference; the others count as one
  std::int64_t held_out_sequences =
      8;                     ///< of the calibration set, never trained on: they decide when to stop
  std::int64_t checks = 12;  ///< measurements on them in all
  int most_bits = 5;         ///< modules of more bits stay: rounding their scales costs more than is won
  kernels::Compute compute = kernels::Compute::bf16;
};

struct DistillResult {
  std::vector<double> held_out;  ///< KL a token on the held-out sequences: before, then at each check
  std::size_t best = 0;          ///< the entry of held_out that was kept; 0: nothing changed
  std::int64_t steps = 0;
};
/// As `--json` shows it; read back, doubles are the same. bad_input for a member that is missing or no finite
/// number.
Json distill_to_json(const DistillResult& result);
Result<DistillResult> distill_from_json(const Json& json, const std::string& where);

/// Trains the checkpoint `folder` (that encode::encode_checkpoint wrote) and swaps it with the result, whole
/// or not at all; where no check is better than the beginning it stays as it is. It ends early when three
/// checks in a row were no better than the best. At every check the state goes to a hidden file beside the
/// folder, of 32 bytes a scale: after a kill the same call goes on from there, and gives the same bytes.
/// Memory: the reference's and the model's mapping, f32 gradients and Adam's moments of all scales and
/// biases, one sequence's hidden states and one block's activations, 8·kept_tokens bytes a calibration token.
/// Cost: four forward passes a sequence and epoch. Errors: usage for options out of range, bad_input where
/// the two models do not fit each other or there are too few sequences.
Result<DistillResult> distill(const std::filesystem::path& folder, const model::Model& reference,
                              const calibrate::TokenBatch& batch, const DistillOptions& options,
                              const Progress& progress);

}  // namespace optiq::tune
