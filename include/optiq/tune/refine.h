// Plans corrected by what they really cost: the chosen plan is carried out and measured, each width's
// predicted cost is corrected by its measured one, and the program is solved again while that helps.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "optiq/base/progress.h"
#include "optiq/calibrate/calibrate.h"
#include "optiq/encode/encode.h"
#include "optiq/model/model.h"
#include "optiq/plan/planner.h"

namespace optiq::tune {

struct RefineOptions {
  int rounds = 2;                  ///< plans after the first at most
  std::int64_t kept_tokens = 128;  ///< of each position of the reference; the others count as one
  kernels::Compute compute = kernels::Compute::bf16;
};

/// One plan that was carried out.
struct Candidate {
  std::string name;  ///< "plan", "plan 2", … or that of a guard
  plan::Plan plan;
  double divergence = 0;  ///< KL a token from the reference on the held-out tokens, measured
};

struct RefineResult {
  std::vector<Candidate> candidates;  ///< in the order they were tried
  std::size_t best = 0;               ///< what lies in the folder
  /// Bits → measured over predicted divergence of the first plan's modules of that width alone.
  std::map<int, double> corrections;
};

/// What plans are chosen and judged by; all borrowed.
struct RefineJob {
  const model::Model& reference;
  const profile::Sensitivity& sensitivity;
  const plan::Budget& budget;
  const plan::Rules& rules;
  const std::filesystem::path& activations;  ///< the profile's (encode::read_calibration)
  const std::vector<plan::Guard>& guards;  ///< plans of no more bytes that the result must not be worse than
  const calibrate::TokenBatch& held_out;   ///< tokens that the profile has not seen
  const std::filesystem::path& out;
};

/// Plans within the budget, encodes into `out` and measures on the held-out tokens. Then, while the last plan
/// was the best yet and `rounds` are left: measures the modules of each width alone, corrects
/// (correct_widths) and does it again. Each guard is carried out and measured too, but for those predicted to
/// diverge more than three times as much as the best plan was measured to. What lies in `out` at the end is
/// the best of all; it is there as soon as the first plan is encoded. After a kill the same call encodes and
/// measures no plan again, but may have to encode the best one. Errors: those of make_plan and
/// encode_checkpoint; bad_input for held-out tokens outside the vocabulary.
Result<RefineResult> refine(const RefineJob& job, const RefineOptions& options, const Progress& progress);

/// Costs and standard errors of the options of each width times its correction, projections times its root. A
/// width without one takes that of the nearest width (of two, the smaller). At least one correction, all
/// positive.
profile::Sensitivity correct_widths(profile::Sensitivity sensitivity,
                                    const std::map<int, double>& corrections);

}  // namespace optiq::tune
