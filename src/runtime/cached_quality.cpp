#include "optiq/runtime/cached_quality.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "optiq/kernels/ops.h"

namespace optiq::runtime {
namespace {

namespace mx = model::mx;

/// What was measured of one window, or one step of it.
struct Scores {
  double log_likelihood = 0;  ///< Σ
  std::vector<double> kl;     ///< of each position, where there is a reference
  double agreements = 0;
};

mx::array rows_of(std::span<const float> logits, std::size_t rows) {
  return mx::array(logits.data(), {static_cast<int>(rows), static_cast<int>(logits.size() / rows)});
}

/// Adds the positions in front of `labels`, given logits [labels][vocabulary]; `expected`: the reference's.
Status add_step(std::span<const float> logits, const std::optional<std::span<const float>>& expected,
                std::span<const std::int32_t> labels, Scores& scores) {
  const mx::array own = rows_of(logits, labels.size());
  const mx::array likelihoods = kernels::label_log_probabilities(
      own, mx::array(labels.data(), {static_cast<int>(labels.size())}, mx::int32));
  OPTIQ_CHECK(model::evaluate({likelihoods}));
  for (std::size_t i = 0; i < labels.size(); ++i)
    scores.log_likelihood += static_cast<double>(likelihoods.data<float>()[i]);
  if (!expected) return {};
  const mx::array reference = rows_of(*expected, labels.size());
  const mx::array kl = kernels::kl_divergence(reference, own);
  const mx::array same = mx::astype(mx::equal(mx::argmax(reference, 1), mx::argmax(own, 1)), mx::float32);
  OPTIQ_CHECK(model::evaluate({kl, same}));
  scores.kl.insert(scores.kl.end(), kl.data<float>(), kl.data<float>() + kl.size());
  for (std::size_t i = 0; i < labels.size(); ++i)
    scores.agreements += static_cast<double>(same.data<float>()[i]);
  return {};
}

/// All tokens but the first.
Result<Scores> score_window(engine::Engine& engine, std::optional<engine::Engine>& reference,
                            std::span<const std::int32_t> window) {
  engine.truncate(0);
  if (reference) reference->truncate(0);
  const std::size_t positions = window.size() - 1;
  Scores scores;
  for (std::size_t first = 0; first < positions; first += kCachedStep) {
    const std::size_t count = std::min(kCachedStep, positions - first);
    OPTIQ_TRY(const auto logits, engine.feed_all(window.subspan(first, count)));
    std::optional<std::span<const float>> expected;
    if (reference) {
      OPTIQ_TRY(expected, reference->feed_all(window.subspan(first, count)));
    }
    OPTIQ_CHECK(add_step(logits, expected, window.subspan(first + 1, count), scores));
  }
  return scores;
}

}  // namespace

Result<evaluate::Quality> evaluate_cached(const model::Model& model, const model::Model* reference,
                                          std::span<const std::int32_t> tokens,
                                          const evaluate::Options& options, const engine::Options& engine,
                                          const Progress& progress) {
  OPTIQ_TRY(evaluate::Quality quality, evaluate::cut_into_windows(model, reference, tokens, options));
  engine::Engine decoder(model, engine);
  std::optional<engine::Engine> exact;
  if (reference != nullptr) {
    exact.emplace(
        *reference,
        engine::Options{kernels::Compute::f32, kernels::cpu::CacheStorage::f32, {}, engine.huge_pages});
  }
  evaluate::WindowScores measured;
  const WorkRange own = options.workers.share(quality.windows);
  for (std::int64_t i = own.begin; i < own.end; ++i) {
    report_progress(progress, "evaluating", static_cast<double>(i - own.begin),
                    static_cast<double>(own.count()));
    OPTIQ_TRY(const Scores scores, score_window(decoder, exact,
                                                tokens.subspan(static_cast<std::size_t>(i * quality.context),
                                                               static_cast<std::size_t>(quality.context))));
    const auto positions = static_cast<double>(quality.context - 1);
    measured.nll.push_back(-scores.log_likelihood / positions);
    if (reference == nullptr) continue;
    measured.kl.push_back(mean_with_error(scores.kl).mean);
    measured.agreement.push_back(scores.agreements / positions);
    measured.positions.insert(measured.positions.end(), scores.kl.begin(), scores.kl.end());
  }
  OPTIQ_CHECK(measured.share(options.workers));
  evaluate::set_scores(quality, std::move(measured));
  return quality;
}

}  // namespace optiq::runtime
