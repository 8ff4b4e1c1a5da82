#include "optiq/runtime/cached_quality.h"

#include <algorithm>

#include "optiq/kernels/ops.h"

namespace optiq::runtime {
namespace {

namespace mx = model::mx;

/// Σ −log p of the tokens `labels`, given logits [labels][vocabulary].
Result<double> negative_log_likelihood(std::span<const float> logits, std::span<const std::int32_t> labels) {
  const int rows = static_cast<int>(labels.size()), width = static_cast<int>(logits.size() / labels.size());
  const mx::array likelihoods = kernels::label_log_probabilities(mx::array(logits.data(), {rows, width}),
                                                                 mx::array(labels.data(), {rows}, mx::int32));
  OPTIQ_CHECK(model::evaluate({likelihoods}));
  double sum = 0;
  for (int i = 0; i < rows; ++i) sum -= static_cast<double>(likelihoods.data<float>()[i]);
  return sum;
}

/// The mean over all tokens but the first.
Result<double> score_window(engine::Engine& engine, std::span<const std::int32_t> window) {
  engine.truncate(0);
  const std::size_t positions = window.size() - 1;
  double sum = 0;
  for (std::size_t first = 0; first < positions; first += kCachedStep) {
    const std::size_t count = std::min(kCachedStep, positions - first);
    OPTIQ_TRY(const auto logits, engine.feed_all(window.subspan(first, count)));
    OPTIQ_TRY(const double part, negative_log_likelihood(logits, window.subspan(first + 1, count)));
    sum += part;
  }
  return sum / static_cast<double>(positions);
}

}  // namespace

Result<evaluate::Quality> evaluate_cached(const model::Model& model, std::span<const std::int32_t> tokens,
                                          const evaluate::Options& options, const engine::Options& engine,
                                          const Progress& progress) {
  OPTIQ_TRY(evaluate::Quality quality, evaluate::cut_into_windows(model, tokens, options));
  engine::Engine decoder(model, engine);
  for (std::int64_t i = 0; i < quality.windows; ++i) {
    report_progress(progress, "evaluating", static_cast<double>(i), static_cast<double>(quality.windows));
    OPTIQ_TRY(const double nll,
              score_window(decoder, tokens.subspan(static_cast<std::size_t>(i * quality.context),
                                                   static_cast<std::size_t>(quality.context))));
    quality.window_nll.push_back(nll);
  }
  evaluate::set_perplexity(quality);
  return quality;
}

}  // namespace optiq::runtime
