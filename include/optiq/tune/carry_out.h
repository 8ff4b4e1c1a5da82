// From a profile to the finished checkpoint: plans corrected, rounding learned, scales and biases distilled.
#pragma once

#include <optional>

#include "optiq/tune/distill.h"
#include "optiq/tune/refine.h"
#include "optiq/tune/round.h"

namespace optiq::tune {

struct CarryOutOptions {
  RefineOptions refine = {};
  std::optional<RoundOptions> round = {};      ///< nothing: no rounding is learned
  std::optional<DistillOptions> distill = {};  ///< nothing: scales and biases stay
};

struct CarriedOut {
  RefineResult refined;
  std::optional<RoundResult> rounded;
  std::optional<DistillResult> distilled;
};

/// refine, then learn_rounding and distill on the tokens that the job's activations were measured on, as far
/// as they are wanted. Killed at any moment, the same call goes on: no plan is measured twice, a finished
/// stage is not done again, and a stage goes on as it says itself; the bytes in `out` are those of a call
/// that was never killed. What was done is remembered in a hidden file beside `out`, until forget_work.
Result<CarriedOut> carry_out(const RefineJob& job, const CarryOutOptions& options, const Progress& progress);

/// Whether so many calibration sequences will do for the stages that are wanted, asked before hours of work;
/// bad_input where they are too few.
Status check_stages(const CarryOutOptions& options, std::int64_t sequences);

/// Deletes what carry_out remembers of `out`, once nothing that follows it can be killed any more.
Status forget_work(const std::filesystem::path& out);

}  // namespace optiq::tune
