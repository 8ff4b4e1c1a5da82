// What it costs to calibrate on one kind of text and to use the model on another.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "optiq/calibrate/calibrate.h"
#include "optiq/evaluate/evaluate.h"
#include "optiq/plan/difference.h"
#include "optiq/plan/planner.h"

namespace optiq::evaluate {

/// A kind of text: what was profiled on it, and more of it.
struct CalibrationSet {
  std::string name;
  profile::Sensitivity sensitivity;
  std::filesystem::path profile;  ///< file of `sensitivity`, the activation statistics beside it
  calibrate::TokenBatch held_out;
};

/// Rows: calibrated on. Columns: predicted for, or measured on.
template <class T>
using Matrix = std::vector<std::vector<T>>;

struct Mismatch {
  std::vector<std::string> names;  ///< of the sets
  std::vector<plan::Plan> plans;   ///< one a set, all within the same budget
  Matrix<MeanError> predicted;     ///< KL of a set's plan by another set's profile, nats a token
  Matrix<plan::Difference> differences;
  Matrix<double> spearman;  ///< of the profiles' costs
  /// KL to the full-precision model, measured on the other set's held-out text, over windows; empty where
  /// nothing was encoded.
  Matrix<Distance> measured;
  Matrix<std::vector<double>> window_kl;  ///< of `measured`: one value a window
};

/// Plans for every set within `budget`, and what the profiles predict for each other's. usage for fewer than
/// two sets; bad_input where the profiles are not of one model, estimator and encoder.
Result<Mismatch> predict_mismatch(const std::vector<CalibrationSet>& sets, const plan::Budget& budget,
                                  const plan::Rules& rules);

/// Encodes every plan into `scratch` (replaced, removed at the end), with its own set's activation
/// statistics, and measures it on every set's held-out text. Cost: sets² evaluations beside the encoding.
Status measure_mismatch(const model::Model& reference, const std::vector<CalibrationSet>& sets,
                        const std::filesystem::path& scratch, Mismatch& mismatch, const Progress& progress);

/// KL on text `on` of the plan for `by`, relative to that of the plan for `on` itself: 0.1 is 10 % more.
/// Measured, over the same windows (the standard error is that of the paired difference), or predicted where
/// nothing was measured (without a standard error). 0 where the plan for `on` has no KL.
MeanError excess(const Mismatch& mismatch, std::size_t by, std::size_t on);

}  // namespace optiq::evaluate
