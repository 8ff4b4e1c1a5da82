#include "optiq/evaluate/mismatch.h"

#include "optiq/evaluate/measure.h"

namespace optiq::evaluate {
namespace {

namespace fs = std::filesystem;

Status check_sets(const std::vector<CalibrationSet>& sets) {
  if (sets.size() < 2)
    return fail(ErrorCode::usage, "expected at least two calibration sets to compare, got {}", sets.size());
  const profile::Sensitivity& first = sets.front().sensitivity;
  for (const CalibrationSet& set : sets) {
    const profile::Sensitivity& other = set.sensitivity;
    if (other.estimator != first.estimator || other.encoder != first.encoder) {
      return fail(ErrorCode::bad_input, "{}: a profile by {} for {}, but that of {} is by {} for {}",
                  set.profile.string(), profile::estimator_name(other.estimator),
                  quant::encoder_name(other.encoder), sets.front().name,
                  profile::estimator_name(first.estimator), quant::encoder_name(first.encoder));
    }
  }
  return {};
}

}  // namespace

Result<Mismatch> predict_mismatch(const std::vector<CalibrationSet>& sets, const plan::Budget& budget,
                                  const plan::Rules& rules) {
  OPTIQ_CHECK(check_sets(sets));
  Mismatch result;
  for (const CalibrationSet& set : sets) {
    result.names.push_back(set.name);
    OPTIQ_TRY(plan::Plan plan, plan::make_plan(set.sensitivity, budget, rules));
    result.plans.push_back(std::move(plan));
  }
  for (std::size_t i = 0; i < sets.size(); ++i) {
    auto& predicted = result.predicted.emplace_back();
    auto& differences = result.differences.emplace_back();
    auto& correlations = result.spearman.emplace_back();
    for (std::size_t j = 0; j < sets.size(); ++j) {
      const auto priced = plan::predict(sets[j].sensitivity, result.plans[i]);
      if (!priced) return with_context(priced.error(), sets[j].profile.string());
      predicted.push_back(*priced);
      OPTIQ_TRY(const plan::Difference difference, plan::difference(result.plans[i], result.plans[j]));
      differences.push_back(difference);
      correlations.push_back(plan::cost_correlation(sets[i].sensitivity, sets[j].sensitivity));
    }
  }
  return result;
}

Status measure_mismatch(const model::Model& reference, const std::vector<CalibrationSet>& sets,
                        const fs::path& scratch, Mismatch& mismatch, const Progress& progress) {
  mismatch.measured.clear();
  mismatch.window_kl.clear();
  std::vector<calibrate::TokenBatch> texts;
  for (const CalibrationSet& set : sets) texts.push_back(set.held_out);
  for (std::size_t i = 0; i < sets.size(); ++i) {
    const Trial trial{mismatch.plans[i], reference, profile::importance_path(sets[i].profile)};
    OPTIQ_TRY(const auto qualities, measure_trial(trial, reference, texts, scratch, progress));
    auto& measured = mismatch.measured.emplace_back();
    auto& windows = mismatch.window_kl.emplace_back();
    for (const Quality& quality : qualities) {
      measured.push_back(quality.distance);
      windows.push_back(quality.window_kl);
    }
  }
  return {};
}

MeanError excess(const Mismatch& mismatch, std::size_t by, std::size_t on) {
  if (mismatch.measured.empty()) {
    const double own = mismatch.predicted[on][on].mean;
    return {own > 0 ? mismatch.predicted[by][on].mean / own - 1 : 0, 0};
  }
  const double own = mismatch.measured[on][on].kl.mean;
  std::vector<double> differences = mismatch.window_kl[by][on];
  if (!(own > 0)) return {};
  for (std::size_t w = 0; w < differences.size(); ++w)
    differences[w] = (differences[w] - mismatch.window_kl[on][on][w]) / own;
  return mean_with_error(differences);
}

}  // namespace optiq::evaluate
