#include "optiq/tune/refine.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "optiq/base/file.h"
#include "optiq/plan/difference.h"
#include "targets.h"

namespace optiq::tune {
namespace {

namespace fs = std::filesystem;

/// A correction beyond this says more of noise than of a width.
constexpr double kMostCorrection = 8;

bool same_formats(const plan::Plan& a, const plan::Plan& b) {
  return std::ranges::equal(a.modules, b.modules, {}, &plan::PlannedModule::format,
                            &plan::PlannedModule::format);
}

/// Predicted divergence of the plan's modules of one width, all others left as they are.
Result<double> predicted_of_width(const profile::Sensitivity& sensitivity, plan::Plan plan, int bits) {
  for (plan::PlannedModule& module : plan.modules) {
    if (module.format.bits != bits) module.format = {.bits = 16, .group_size = 0};
  }
  OPTIQ_TRY(const MeanError predicted, plan::predict(sensitivity, plan));
  return predicted.mean;
}

class Refinement {
 public:
  Refinement(const model::Model& reference, const fs::path& activations,
             const calibrate::TokenBatch& held_out, const fs::path& out, const RefineOptions& options,
             const Progress& progress)
      : reference_(reference),
        activations_(activations),
        held_out_(held_out),
        out_(fs::absolute(out).lexically_normal()),
        trial_(out_.parent_path() / fmt::format(".{}.trial", out_.filename().string())),
        options_(options),
        progress_(progress) {}
  Status begin() {
    OPTIQ_TRY(targets_,
              reference_targets(reference_, held_out_, options_.kept_tokens, options_.compute, progress_));
    return {};
  }

  /// Carries a plan out and measures it; true where it is the best so far, which then lies in `out`.
  Result<bool> try_plan(std::string name, plan::Plan plan) {
    const bool is_first = result_.candidates.empty();
    const fs::path& folder = is_first ? out_ : trial_.path();
    OPTIQ_TRY(const auto calibration, encode::read_calibration(activations_, plan));
    OPTIQ_CHECK(encode::encode_checkpoint(reference_.checkpoint(), plan, calibration, folder, {}, progress_));
    OPTIQ_TRY(const double divergence, measure(folder, {}));
    result_.candidates.push_back({std::move(name), std::move(plan), divergence});
    if (is_first) return true;
    if (divergence >= result_.candidates[result_.best].divergence) return false;
    OPTIQ_CHECK(swap_folders(trial_.path(), out_));
    result_.best = result_.candidates.size() - 1;
    return true;
  }

  /// Measured over predicted, for each width of the plan in `out`.
  Result<std::map<int, double>> corrections(const profile::Sensitivity& sensitivity) const {
    const plan::Plan& plan = result_.candidates[result_.best].plan;
    std::map<int, double> found;
    for (const plan::PlannedModule& module : plan.modules) {
      const int bits = module.format.bits;
      if (module.format.is_dense() || found.contains(bits)) continue;
      OPTIQ_TRY(const double measured, measure(out_, bits));
      OPTIQ_TRY(const double predicted, predicted_of_width(sensitivity, plan, bits));
      const double ratio = predicted > 0 ? measured / predicted : 1.0;
      found[bits] = std::clamp(ratio, 1 / kMostCorrection, kMostCorrection);
    }
    return found;
  }

  RefineResult& result() { return result_; }

 private:
  /// Divergence of the reference with the folder's modules of this width (of all) in its place.
  Result<double> measure(const fs::path& folder, std::optional<int> bits) const {
    OPTIQ_TRY(const auto encoded, model::Model::open(folder));
    std::vector<Pairs> pairs =
        trainable_pairs(encoded, quant::kBitChoices[std::size(quant::kBitChoices) - 1]);
    if (bits) std::erase_if(pairs, [&](const Pairs& p) { return p.stored.bits != *bits; });
    const Student student(reference_, pairs, options_.compute);
    return mean_divergence(student, held_out_, targets_, 0, held_out_.sequences);
  }

  const model::Model& reference_;
  const fs::path& activations_;
  const calibrate::TokenBatch& held_out_;
  fs::path out_;
  ScratchFolder trial_;  ///< hidden, so that no folder of the user's is in its place
  const RefineOptions& options_;
  const Progress& progress_;
  std::vector<kernels::TopProbabilities> targets_;
  RefineResult result_;
};

}  // namespace

profile::Sensitivity correct_widths(profile::Sensitivity sensitivity,
                                    const std::map<int, double>& corrections) {
  const auto correction_of = [&](int bits) {
    return std::ranges::min_element(corrections, {},
                                    [bits](const auto& entry) { return std::abs(entry.first - bits); })
        ->second;
  };
  for (profile::ModuleSensitivity& module : sensitivity.modules) {
    for (profile::FormatCost& option : module.options) {
      const double factor = correction_of(option.format.bits);
      option.cost *= factor;
      option.standard_error *= factor;
      for (float& projection : option.projections) projection *= static_cast<float>(std::sqrt(factor));
    }
  }
  return sensitivity;
}

Result<RefineResult> refine(const model::Model& reference, const profile::Sensitivity& sensitivity,
                            const plan::Budget& budget, const plan::Rules& rules, const fs::path& activations,
                            std::vector<plan::Guard> guards, const calibrate::TokenBatch& held_out,
                            const fs::path& out, const RefineOptions& options, const Progress& progress) {
  Refinement refinement(reference, activations, held_out, out, options, progress);
  OPTIQ_TRY(plan::Plan plan, plan::make_plan(sensitivity, budget, rules));
  OPTIQ_CHECK(refinement.begin());
  OPTIQ_TRY(bool is_better, refinement.try_plan("plan", plan));
  profile::Sensitivity corrected = sensitivity;
  RefineResult& result = refinement.result();
  for (int round = 1; round <= options.rounds && is_better; ++round) {
    OPTIQ_TRY(const auto corrections, refinement.corrections(corrected));
    if (corrections.empty()) break;
    if (round == 1) result.corrections = corrections;
    corrected = correct_widths(std::move(corrected), corrections);
    OPTIQ_TRY(plan::Plan next, plan::make_plan(corrected, budget, rules));
    if (same_formats(next, plan)) break;
    plan = next;
    OPTIQ_TRY(is_better, refinement.try_plan(fmt::format("plan {}", round + 1), std::move(next)));
  }
  for (plan::Guard& guard : guards)
    OPTIQ_CHECK(refinement.try_plan(std::move(guard.name), std::move(guard.plan)));
  return std::move(result);
}

}  // namespace optiq::tune
