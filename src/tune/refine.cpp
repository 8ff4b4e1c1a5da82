#include "optiq/tune/refine.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "optiq/base/file.h"
#include "optiq/plan/difference.h"
#include "refine_with.h"
#include "targets.h"

namespace optiq::tune {
namespace {

namespace fs = std::filesystem;

/// A correction beyond this says more of noise than of a width.
constexpr double kMostCorrection = 8;
/// Predictions are within half and twice of what is measured, so that a guard that is predicted to diverge so
/// many times as much as the best plan was measured to is not worth its encoding.
constexpr double kHopeless = 3;

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

/// A plan as records name it.
std::string key_of(plan::Plan plan) {
  plan.seconds = 0;  // planned again, it is the same
  const std::string text = plan::plan_to_json(plan).dump();
  return hex(fingerprint(std::as_bytes(std::span(text))));
}

Json corrections_to_json(const std::map<int, double>& corrections) {
  Json json = Json::array();
  for (const auto& [bits, factor] : corrections) json.push_back({{"bits", bits}, {"factor", factor}});
  return json;
}

Result<std::map<int, double>> corrections_from_json(const JsonReader& record) {
  OPTIQ_TRY(const Json* list, record.array("factors"));
  std::map<int, double> corrections;
  for (const Json& entry : *list) {
    const JsonReader reader(entry, record.where() + ": factors");
    OPTIQ_TRY(const std::int64_t bits, reader.integer("bits"));
    OPTIQ_TRY(const double factor, reader.number("factor"));
    if (bits < 1 || bits > 16 || factor < 1 / kMostCorrection || factor > kMostCorrection)
      return fail(ErrorCode::bad_input, "{}: {} bits by {} is no correction", reader.where(), bits, factor);
    corrections[static_cast<int>(bits)] = factor;
  }
  return corrections;
}

class Refinement {
 public:
  Refinement(WorkLog& log, const RefineJob& job, const RefineOptions& options, const Progress& progress)
      : log_(log),
        job_(job),
        out_(fs::absolute(job.out).lexically_normal()),
        trial_(hidden_beside(out_, "trial")),
        options_(options),
        progress_(progress) {}

  /// Carries a plan out and measures it, unless that was done; true where it is the best so far, which then
  /// lies in `out`.
  Result<bool> try_plan(std::string name, plan::Plan plan) {
    const bool is_first = result_.candidates.empty();
    OPTIQ_TRY(const auto known, log_.next({{"candidate", key_of(plan)}}));
    OPTIQ_TRY(const Outcome outcome, known ? recorded(*known) : measure_plan(plan));
    result_.candidates.push_back({std::move(name), std::move(plan), outcome.divergence});
    contents_.push_back(outcome.content);
    if (is_first) return true;
    if (outcome.divergence >= result_.candidates[result_.best].divergence) return false;
    if (!known) OPTIQ_CHECK(swap_folders(trial_.path(), out_));
    result_.best = result_.candidates.size() - 1;
    return true;
  }

  /// Measured over predicted, for each width of the plan in `out`.
  Result<std::map<int, double>> corrections(const profile::Sensitivity& sensitivity) {
    const Json name{{"corrections_of", key_of(result_.candidates[result_.best].plan)}};
    OPTIQ_TRY(const auto known, log_.next(name));
    if (known) return corrections_from_json(JsonReader(*known, log_.path().string()));
    OPTIQ_TRY(const auto found, measure_corrections(sensitivity));
    Json record = name;
    record["factors"] = corrections_to_json(found);
    OPTIQ_CHECK(log_.append(record));
    return found;
  }

  /// The best plan lies in `out`, or what was made of it, as far as the log knows.
  Status finish() { return is_current_ || log_.is_ahead(content_of(out_)) ? Status() : bring_back_best(); }

  RefineResult& result() { return result_; }

 private:
  struct Outcome {
    double divergence = 0;
    std::uint64_t content = 0;  ///< of the encoded checkpoint
  };

  Result<Outcome> recorded(const Json& record) const {
    const JsonReader reader(record, log_.path().string());
    OPTIQ_TRY(const double divergence, reader.number("divergence"));
    OPTIQ_TRY(const std::string content, reader.string(WorkLog::kContent));
    return Outcome{divergence, std::strtoull(content.c_str(), nullptr, 16)};
  }

  /// Encodes the plan, the first one into `out`, others for trial.
  Result<Outcome> measure_plan(const plan::Plan& plan) {
    OPTIQ_CHECK(ask_reference());
    OPTIQ_CHECK(bring_back_best());
    const fs::path& folder = result_.candidates.empty() ? out_ : trial_.path();
    OPTIQ_CHECK(encode(plan, folder));
    is_current_ = true;
    OPTIQ_TRY(const double divergence, measure(folder, {}));
    const Outcome outcome{divergence, content_of(folder)};
    const Json record{
        {"candidate", key_of(plan)}, {"divergence", divergence}, {WorkLog::kContent, hex(outcome.content)}};
    if (std::isfinite(divergence)) OPTIQ_CHECK(log_.append(record));
    return outcome;
  }

  Status encode(const plan::Plan& plan, const fs::path& folder) {
    OPTIQ_TRY(const auto calibration, encode::read_calibration(job_.activations, plan));
    return encode::encode_checkpoint(job_.reference.checkpoint(), plan, calibration, folder, {}, progress_);
  }

  /// What a killed process left in `out` may be older than what it knew, or what was made of it later.
  Status bring_back_best() {
    if (result_.candidates.empty() || is_current_) return {};
    if (content_of(out_) != contents_[result_.best])
      OPTIQ_CHECK(encode(result_.candidates[result_.best].plan, out_));
    is_current_ = true;
    return {};
  }

  Status ask_reference() {
    if (!targets_.empty()) return {};
    OPTIQ_TRY(targets_, reference_targets(job_.reference, job_.held_out, options_.kept_tokens,
                                          options_.compute, progress_));
    return {};
  }

  Result<std::map<int, double>> measure_corrections(const profile::Sensitivity& sensitivity) {
    OPTIQ_CHECK(ask_reference());
    OPTIQ_CHECK(bring_back_best());
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

  /// Divergence of the reference with the folder's modules of this width (of all) in its place.
  Result<double> measure(const fs::path& folder, std::optional<int> bits) const {
    OPTIQ_TRY(const auto encoded, model::Model::open(folder));
    std::vector<Pairs> pairs =
        trainable_pairs(encoded, quant::kBitChoices[std::size(quant::kBitChoices) - 1]);
    if (bits) std::erase_if(pairs, [&](const Pairs& p) { return p.stored.bits != *bits; });
    const Student student(job_.reference, pairs, options_.compute);
    return mean_divergence(student, job_.held_out, targets_, 0, job_.held_out.sequences);
  }

  WorkLog& log_;
  const RefineJob& job_;
  fs::path out_;
  ScratchFolder trial_;  ///< hidden, so that no folder of the user's is in its place
  const RefineOptions& options_;
  const Progress& progress_;
  std::vector<kernels::TopProbabilities> targets_;
  RefineResult result_;
  std::vector<std::uint64_t> contents_;  ///< parallel to the candidates
  bool is_current_ = false;              ///< `out` is known to be the best candidate
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

Result<RefineResult> refine_with(WorkLog& log, const RefineJob& job, const RefineOptions& options,
                                 const Progress& progress) {
  Refinement refinement(log, job, options, progress);
  OPTIQ_TRY(plan::Plan plan, plan::make_plan(job.sensitivity, job.budget, job.rules));
  OPTIQ_TRY(bool is_better, refinement.try_plan("plan", plan));
  profile::Sensitivity corrected = job.sensitivity;
  RefineResult& result = refinement.result();
  for (int round = 1; round <= options.rounds && is_better; ++round) {
    OPTIQ_TRY(const auto corrections, refinement.corrections(corrected));
    if (corrections.empty()) break;
    if (round == 1) result.corrections = corrections;
    corrected = correct_widths(std::move(corrected), corrections);
    OPTIQ_TRY(plan::Plan next, plan::make_plan(corrected, job.budget, job.rules));
    if (same_formats(next, plan)) break;
    plan = next;
    OPTIQ_TRY(is_better, refinement.try_plan(fmt::format("plan {}", round + 1), std::move(next)));
  }
  for (const plan::Guard& guard : job.guards) {
    const bool is_hopeless = guard.plan.predicted_kl > kHopeless * result.candidates[result.best].divergence;
    if (!is_hopeless) OPTIQ_CHECK(refinement.try_plan(guard.name, guard.plan));
  }
  OPTIQ_CHECK(refinement.finish());
  return std::move(result);
}

std::filesystem::path log_path(const fs::path& out) {
  return hidden_beside(out, "tune.journal");
}

Result<WorkLog> open_log(const RefineJob& job, const RefineOptions& options, std::string_view behind) {
  std::uint64_t activations = 0;
  if (!job.activations.empty()) {
    OPTIQ_TRY(const MappedFile file, MappedFile::open(job.activations));
    activations = fingerprint(file.bytes());
  }
  const std::string work = fmt::format("tune 1 {} {} {:016x} {}", options.kept_tokens,
                                       static_cast<int>(options.compute), activations, behind);
  return WorkLog::open(log_path(job.out), work_identity(work, job.reference, job.held_out));
}

Result<RefineResult> refine(const RefineJob& job, const RefineOptions& options, const Progress& progress) {
  OPTIQ_TRY(WorkLog log, open_log(job, options, ""));
  auto result = refine_with(log, job, options, progress);
  if (result || log.is_empty()) OPTIQ_CHECK(log.remove());
  return result;
}

}  // namespace optiq::tune
