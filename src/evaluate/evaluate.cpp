#include "optiq/evaluate/evaluate.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>

#include "optiq/base/journal.h"
#include "optiq/kernels/cpu.h"
#include "optiq/model/stream.h"
#include "same_models.h"

namespace optiq::evaluate {
namespace {

namespace mx = model::mx;

/// Positions whose logits are held at once.
constexpr int kPositionsAtOnce = 256;

/// Per scored position of one window.
struct Scores {
  std::vector<double> log_probabilities;
  std::vector<double> kl;
  std::vector<double> agreement;
};

/// Windows of one text, all as long.
struct Windows {
  std::span<const std::int32_t> tokens;
  std::size_t context = 0;

  [[nodiscard]] std::size_t count() const { return tokens.size() / context; }
  [[nodiscard]] std::span<const std::int32_t> window(std::size_t index) const {
    return tokens.subspan(index * context, context);
  }
  /// What the model sees of it: all but the last token.
  [[nodiscard]] mx::array inputs(std::size_t index) const {
    return mx::array(window(index).data(), {1, static_cast<int>(context) - 1}, mx::int32);
  }
};

/// The hidden states behind the last block, of each window; every block's weights are read once.
Result<model::Activations> hidden_of(const model::Model& model, const Windows& windows,
                                     kernels::Compute compute, std::uint64_t least,
                                     const MemoryLimit& memory) {
  const model::Pass pass{.compute = compute};
  const std::uint64_t bytes = (windows.context - 1) * static_cast<std::uint64_t>(model.config().hidden) * 4;
  OPTIQ_TRY(auto hidden, model::make_activations(windows.count(), bytes, least, memory));
  {
    const model::StageWeights weights(model, model::kOutsideBlocks, 0);
    for (std::size_t i = 0; i < windows.count(); ++i)
      OPTIQ_CHECK(hidden.put(i, model.embed(windows.inputs(i), pass)));
  }
  const std::int64_t layers = model.config().layers;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const std::int64_t next = layer + 1 < layers ? layer + 1 : model::kOutsideBlocks;
    const model::StageWeights weights(model, layer, next);
    for (std::size_t i = 0; i < windows.count(); ++i) {
      OPTIQ_TRY(const mx::array before, hidden.get(i));
      OPTIQ_CHECK(hidden.put(i, model.block(layer, before, pass)));
    }
  }
  return hidden;
}

/// Logits of positions [first, last) of a window: f32 [last − first, vocabulary].
mx::array logits_of(const model::Model& model, const mx::array& hidden, int first, int last,
                    kernels::Compute compute) {
  const mx::array part = mx::slice(hidden, {0, first, 0}, {1, last, hidden.shape(2)});
  const mx::array logits = model.head(part, {.compute = compute});
  return mx::reshape(logits, {last - first, -1});
}

/// What a model is compared with is never rounded to int8.
kernels::Compute reference_compute(kernels::Compute compute) {
  return compute == kernels::Compute::int8 ? kernels::Compute::f32 : compute;
}

template <class T>
void append(std::vector<double>& values, const mx::array& array) {
  const T* data = array.data<T>();
  values.insert(values.end(), data, data + array.size());
}

Status score_positions(const model::Model& model, const model::Model* reference, const mx::array& hidden,
                       const mx::array& reference_hidden, std::span<const std::int32_t> window, int first,
                       int last, kernels::Compute compute, Scores& scores) {
  const mx::array logits = logits_of(model, hidden, first, last, compute);
  const mx::array labels(window.data() + first + 1, {last - first}, mx::int32);
  const mx::array likelihoods = kernels::label_log_probabilities(logits, labels);
  if (reference == nullptr) {
    OPTIQ_CHECK(model::evaluate({likelihoods}));
    append<float>(scores.log_probabilities, likelihoods);
    return {};
  }
  const mx::array expected = logits_of(*reference, reference_hidden, first, last, reference_compute(compute));
  const mx::array kl = kernels::kl_divergence(expected, logits);
  const mx::array same = mx::astype(mx::equal(mx::argmax(expected, 1), mx::argmax(logits, 1)), mx::float32);
  OPTIQ_CHECK(model::evaluate({likelihoods, kl, same}));
  append<float>(scores.log_probabilities, likelihoods);
  append<float>(scores.kl, kl);
  append<float>(scores.agreement, same);
  return {};
}

Result<Scores> score_window(const model::Model& model, const model::Model* reference, const mx::array& hidden,
                            const mx::array& reference_hidden, std::span<const std::int32_t> window,
                            kernels::Compute compute) {
  const int positions = static_cast<int>(window.size()) - 1;
  Scores scores;
  for (int first = 0; first < positions; first += kPositionsAtOnce) {
    const int last = std::min(first + kPositionsAtOnce, positions);
    OPTIQ_CHECK(
        score_positions(model, reference, hidden, reference_hidden, window, first, last, compute, scores));
  }
  return scores;
}

/// The scores of each window, in order, to `take`.
Status score_windows(const model::Model& model, const model::Model* reference, const Windows& windows,
                     const Options& options, const std::function<void(const Scores& scores)>& take) {
  const std::uint64_t least = memory_needed(model, reference, static_cast<std::int64_t>(windows.context));
  OPTIQ_TRY(const auto hidden, hidden_of(model, windows, options.compute, least, options.memory));
  std::optional<model::Activations> reference_hidden;
  if (reference != nullptr) {
    const std::uint64_t held =
        hidden.is_on_disk() ? 0
                            : windows.tokens.size() * static_cast<std::uint64_t>(model.config().hidden) * 4;
    OPTIQ_TRY(reference_hidden, hidden_of(*reference, windows, reference_compute(options.compute),
                                          least + held, options.memory));
  }
  const model::StageWeights head(model, model::kOutsideBlocks, std::nullopt);
  std::optional<model::StageWeights> reference_head;
  if (reference != nullptr) reference_head.emplace(*reference, model::kOutsideBlocks, std::nullopt);
  for (std::size_t i = 0; i < windows.count(); ++i) {
    OPTIQ_TRY(const mx::array own, hidden.get(i));
    OPTIQ_TRY(const mx::array other, reference_hidden ? reference_hidden->get(i) : hidden.get(i));
    OPTIQ_TRY(const Scores scores,
              score_window(model, reference, own, other, windows.window(i), options.compute));
    take(scores);
  }
  return {};
}

double mean_of(const std::vector<double>& values) {
  return mean_with_error(values).mean;
}

/// Tokens of a window: as wanted, but no more than the text has, or the model positions.
std::int64_t usable_context(const model::ModelConfig& config, std::int64_t wanted, std::size_t tokens) {
  const std::int64_t context = std::min(wanted, static_cast<std::int64_t>(tokens));
  return config.max_positions > 0 ? std::min(context, config.max_positions) : context;
}

Status check(const model::Model& model, const model::Model* reference, std::span<const std::int32_t> tokens,
             const Options& options) {
  if (tokens.size() < 2)
    return fail(ErrorCode::bad_input, "evaluation: expected a text of at least 2 tokens, got {}",
                tokens.size());
  if (options.context < 2 || options.max_windows < 0) {
    return fail(ErrorCode::usage, "evaluation: expected a context ≥ 2 and windows ≥ 0, got {} and {}",
                options.context, options.max_windows);
  }
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= model.config().vocabulary) {
      return fail(ErrorCode::bad_input, "evaluation: token {} is outside the model's vocabulary of {}", token,
                  model.config().vocabulary);
    }
  }
  if (reference != nullptr && reference->config().vocabulary != model.config().vocabulary) {
    return fail(ErrorCode::bad_input, "evaluation: the model has a vocabulary of {}, the reference one of {}",
                model.config().vocabulary, reference->config().vocabulary);
  }
  return {};
}

/// Workers have texts and models of their own: whether they are the same.
Status check_workers(const model::Model& model, const model::Model* reference,
                     std::span<const std::int32_t> tokens, const Options& options) {
  if (options.workers.is_alone()) return {};
  OPTIQ_CHECK(options.workers.require_same(
      fmt::format("{} {} {} {} {:x}", options.context, options.max_windows, static_cast<int>(options.compute),
                  kernels::cpu_isa(), fingerprint(std::as_bytes(tokens))),
      "evaluation: text, options and instruction set (OPTIQ_CPU_ISA forces one)"));
  return require_same_models(options.workers, model, reference, "evaluation");
}

}  // namespace

std::uint64_t memory_needed(const model::Model& model, const model::Model* reference, std::int64_t context) {
  std::uint64_t head = model::stage_bytes(model, model::kOutsideBlocks);
  std::uint64_t pass = model::pass_bytes(model, context);
  if (reference != nullptr) {
    head += model::stage_bytes(*reference, model::kOutsideBlocks);
    pass = std::max(pass, model::pass_bytes(*reference, context));
  }
  // Logits of both, and what comparing them takes; products may lay a panel of the head out anew.
  const auto logits = static_cast<std::uint64_t>(kPositionsAtOnce * model.config().vocabulary) * 4;
  return std::max(pass, kProcessBytes + head + 8 * logits);
}

Result<Quality> cut_into_windows(const model::Model& model, const model::Model* reference,
                                 std::span<const std::int32_t> tokens, const Options& options) {
  OPTIQ_CHECK(check(model, reference, tokens, options));
  OPTIQ_CHECK(check_workers(model, reference, tokens, options));
  Quality quality;
  quality.context = usable_context(model.config(), options.context, tokens.size());
  quality.windows = static_cast<std::int64_t>(tokens.size()) / quality.context;
  if (options.max_windows > 0) quality.windows = std::min(quality.windows, options.max_windows);
  quality.tokens = quality.windows * (quality.context - 1);
  return quality;
}

Status WindowScores::share(const Workers& workers) {
  for (std::vector<double>* values : {&nll, &kl, &agreement, &positions}) {
    OPTIQ_TRY(*values, workers.gather(*values));
  }
  return {};
}

void set_scores(Quality& quality, WindowScores scores) {
  quality.window_nll = std::move(scores.nll);
  quality.window_kl = std::move(scores.kl);
  const MeanError nll = mean_with_error(quality.window_nll);
  quality.perplexity = std::exp(nll.mean);
  quality.perplexity_standard_error = quality.perplexity * nll.standard_error;
  quality.has_reference = !quality.window_kl.empty();
  if (!quality.has_reference) return;
  std::vector<double> kl = std::move(scores.positions);
  Distance& distance = quality.distance;
  distance.kl = mean_with_error(quality.window_kl);
  distance.kl_max = *std::max_element(kl.begin(), kl.end());
  distance.kl_median = quantile(kl, 0.5);
  distance.kl_p99 = quantile(kl, 0.99);
  distance.kl_p999 = quantile(std::move(kl), 0.999);
  distance.top1_agreement = mean_with_error(scores.agreement);
}

Result<Quality> evaluate_text(const model::Model& model, const model::Model* reference,
                              std::span<const std::int32_t> tokens, const Options& options,
                              const Progress& progress) {
  OPTIQ_TRY(Quality quality, cut_into_windows(model, reference, tokens, options));
  OPTIQ_CHECK(check_memory(options.memory, memory_needed(model, reference, quality.context), "eval"));
  WindowScores measured;
  const auto take = [&](const Scores& scores) {
    measured.nll.push_back(-mean_of(scores.log_probabilities));
    if (reference == nullptr) return;
    measured.positions.insert(measured.positions.end(), scores.kl.begin(), scores.kl.end());
    measured.kl.push_back(mean_of(scores.kl));
    measured.agreement.push_back(mean_of(scores.agreement));
  };
  const WorkRange own = options.workers.share(quality.windows);
  // Weights that must be read anew are read once for all windows.
  const std::int64_t together = options.memory.is_set() ? own.count() : 1;
  for (std::int64_t first = own.begin; first < own.end; first += together) {
    report_progress(progress, "evaluating", static_cast<double>(first - own.begin),
                    static_cast<double>(own.count()));
    const Windows windows{tokens.subspan(static_cast<std::size_t>(first * quality.context),
                                         static_cast<std::size_t>(together * quality.context)),
                          static_cast<std::size_t>(quality.context)};
    OPTIQ_CHECK(score_windows(model, reference, windows, options, take));
  }
  OPTIQ_CHECK(measured.share(options.workers));
  set_scores(quality, std::move(measured));
  return quality;
}

}  // namespace optiq::evaluate
