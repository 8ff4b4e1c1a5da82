// How good a model is on a text: perplexity, and its distance to a reference model (DESIGN: evaluation
// protocol).
#pragma once

#include <cstdint>
#include <span>

#include "optiq/base/memory.h"
#include "optiq/base/progress.h"
#include "optiq/base/statistics.h"
#include "optiq/model/model.h"
#include "optiq/workers/workers.h"

namespace optiq::evaluate {

struct Options {
  std::int64_t context = 2048;   ///< tokens of a window; windows do not overlap
  std::int64_t max_windows = 0;  ///< 0: the whole text; otherwise the first so many
  /// Of the model; int8 measures what rounding activations costs: the reference is then computed in f32.
  kernels::Compute compute = kernels::Compute::f32;
  /// Of this process; both models should then be opened to be streamed. All windows then go through a block
  /// together, and hidden states that do not fit go to memory.scratch.
  MemoryLimit memory = {};
  Workers workers = {};  ///< who share the windows; every one of them makes the same call, and gets the same
};

/// The least memory of evaluate_text.
std::uint64_t memory_needed(const model::Model& model, const model::Model* reference, std::int64_t context);

/// Distance from a reference model, over all scored tokens, in nats. Standard errors are over windows: tokens
/// of one window are not independent.
struct Distance {
  MeanError kl;
  double kl_median = 0;
  double kl_p99 = 0;
  double kl_p999 = 0;
  double kl_max = 0;
  MeanError top1_agreement;  ///< share of positions where both models prefer the same token
};

struct Quality {
  double perplexity = 0;
  double perplexity_standard_error = 0;
  std::int64_t tokens = 0;   ///< scored: every token of a window but its first
  std::int64_t context = 0;  ///< as used: shorter where the text is, or the model has fewer positions
  std::int64_t windows = 0;
  bool has_reference = false;
  Distance distance;
  std::vector<double> window_nll;  ///< mean −log p of each window: for paired differences between two runs
  std::vector<double> window_kl;
};

/// Scores `tokens` in windows. What is left behind the last whole window is dropped, unless the text is
/// shorter than one. With `reference`, both models see the same windows; their vocabularies must be of one
/// size (bad_input). bad_input also for fewer than 2 tokens or one outside the vocabulary, usage for a
/// context below 2, impossible_budget for a limit of memory below memory_needed. Memory: hidden states of one
/// window and logits of 256 positions of both models.
Result<Quality> evaluate_text(const model::Model& model, const model::Model* reference,
                              std::span<const std::int32_t> tokens, const Options& options,
                              const Progress& progress);

/// For other ways to score the same windows: how many and how long they are, with nothing measured; errors as
/// evaluate_text has.
Result<Quality> cut_into_windows(const model::Model& model, const model::Model* reference,
                                 std::span<const std::int32_t> tokens, const Options& options);

/// What was measured of windows, in order.
struct WindowScores {
  std::vector<double> nll;        ///< mean −log p of each
  std::vector<double> kl;         ///< with a reference: mean of each
  std::vector<double> agreement;  ///< with a reference: share of each
  std::vector<double> positions;  ///< with a reference: KL of every position

  /// All workers' windows, by rank, from each one's own.
  Status share(const Workers& workers);
};
/// Sets perplexity and distance, with their errors, from the scores of all windows.
void set_scores(Quality& quality, WindowScores scores);

}  // namespace optiq::evaluate
