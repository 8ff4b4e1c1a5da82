// Our plans against the usual ways to quantize, at equal real bytes.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "optiq/base/statistics.h"
#include "optiq/calibrate/calibrate.h"
#include "optiq/compare/block_format.h"
#include "optiq/evaluate/evaluate.h"
#include "optiq/plan/planner.h"

namespace optiq::compare {

/// A model to write and measure: a plan carried out, or another tool's format simulated.
struct Candidate {
  std::string name;
  std::uint64_t bytes = 0;
  double bits_per_weight = 0;  ///< bytes · 8 / parameters
  std::optional<plan::Plan> plan;
  std::optional<BlockFormat> simulated;
  bool awq = false;  ///< the plan encodes weights that were folded by fold::Fold::awq before
};

/// The plan by this name, at its own bytes.
Candidate plan_candidate(std::string name, plan::Plan plan);

struct Baseline {
  Candidate candidate;
  std::size_t rival = 0;  ///< index into Field::ours: of the baseline's bytes or fewer, within kSameSize
};

/// A plan counts as of a baseline's size where it takes no more bytes, and at most this fraction fewer.
inline constexpr double kSameSize = 0.005;

struct Field {
  std::vector<Candidate> ours;  ///< the first: at the budget that was asked for
  std::vector<Baseline> baselines;
};

/// The baselines: uniform by rounding to nearest, by AWQ and by gptq, in the measured format whose files come
/// nearest to the budget; mlx-lm's mixed_3_6 and mixed_4_6 shapes by rounding to nearest; NF4 and Q4_0 for
/// all matrices, where their blocks divide the rows. AWQ searches its factors for rounding to nearest and
/// encodes by `range`, which searches each group's range as AWQ searches where to clip. Each is at the bytes
/// that its format gives. Ours: the best plan within `budget`, and within the bytes of each baseline that is
/// of another size than all before. Where the least cost within a baseline's bytes leaves more than kSameSize
/// unused, that plan is its rival all the same. Errors: those of plan::make_plan and plan::mixed_recipe_plan.
Result<Field> make_field(const profile::Sensitivity& sensitivity, const plan::Budget& budget,
                         const plan::Rules& rules);

/// Writes the candidate into `folder`, measures it on `tokens` in windows of tokens.tokens against
/// `reference`, and removes the folder again, whatever happened. What was in `folder` before is lost.
/// `activations`: the profile's file (encode::read_calibration).
Result<evaluate::Quality> measure(const Candidate& candidate, const model::Model& reference,
                                  const std::filesystem::path& activations,
                                  const calibrate::TokenBatch& tokens, const std::filesystem::path& folder,
                                  const Progress& progress = {});

/// Mean of a − b with its standard error over the pairs. Both must be of one length (internal otherwise).
Result<MeanError> paired_difference(std::span<const double> a, std::span<const double> b);

}  // namespace optiq::compare
