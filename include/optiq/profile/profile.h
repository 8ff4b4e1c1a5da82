// The sensitivity of every module at every format, by one of three estimators (docs/profiling.md).
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "optiq/profile/importance.h"
#include "optiq/profile/sensitivity.h"
#include "optiq/workers/workers.h"

namespace optiq::profile {

struct Options {
  Estimator estimator = Estimator::fisher;
  quant::Encoder encoder = quant::Encoder::range;  ///< the one that will write the checkpoint
  std::vector<quant::Format> formats;              ///< empty: every bits × group
  std::int64_t label_draws = 2;                    ///< fisher: independent label sets for each sequence
  kernels::Compute compute = kernels::Compute::bf16;
  bool caches = false;      ///< fisher, kl: price keys and values of the KV cache at kCacheBits, too
  MemoryLimit memory = {};  ///< of this process; the model should then be opened to be streamed
  Workers workers = {};     ///< who share the sequences; every one of them makes the same call
};

/// Every bits × group that MLX stores.
std::vector<quant::Format> all_formats();

/// Measures and writes `output` (sensitivity.json) and, beside it, the activation statistics
/// (importance_path). Work that is done is kept in `output` + ".journal": after a kill the same call goes on
/// where it was; another call begins anew. Memory: memory_needed, and what does not fit beside it goes to an
/// unnamed scratch file. Errors: bad_input for a quantized or damaged checkpoint, out_of_resources for a full
/// disk, impossible_budget for a limit of memory that is too low, usage for work that a limit rules out
/// (`kl`, text that the model samples itself) and for `caches` with `mse`, whose costs are no KL. With
/// several workers the first one alone reads the text, and writes; all return the same. Scores are those of
/// one worker, but for the last bit of sums. usage where workers have other options or another checkpoint, or
/// there are more of them than groups of sequences.
Result<Sensitivity> profile(const model::Model& model, const io::Tokenizer& tokenizer,
                            const calibrate::Source& source, const Options& options,
                            const std::filesystem::path& output, const Progress& progress);

/// The least memory that profile() can do with, and the most that it puts on disk beside its output under
/// options.memory.
std::uint64_t memory_needed(const model::Model& model, std::int64_t tokens, const Options& options);
std::uint64_t disk_needed(const model::Model& model, const calibrate::Source& source, const Options& options);

/// The profile that lies in `output` already, where it was made by the same call of profile() on this model
/// (by size, options and calibration; it must be younger than the model's files); nothing otherwise.
std::optional<Sensitivity> find_profile(const std::filesystem::path& output, const model::Model& model,
                                        const calibrate::Source& source, const Options& options);

}  // namespace optiq::profile
