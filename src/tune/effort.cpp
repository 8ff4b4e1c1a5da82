#include "optiq/tune/effort.h"

#include <chrono>

#include "optiq/base/threads.h"
#include "optiq/model/stream.h"
#include "optiq/tune/round.h"

namespace optiq::tune {
namespace {

// Rough rates of one thread.
constexpr double kRangeWeightsPerSecond = 25e6;
constexpr double kGptqProductsPerSecond = 20e9;
constexpr double kProjectionBytesPerSecond = 15e9;
constexpr double kHeldOutSequences = 16;
constexpr double kChecks = 12;
constexpr double kGuards = 2;  ///< at most: hopeless ones are not carried out; none within a limit of memory

struct Size {
  double weights = 0;
  double products = 0;  ///< Σ weights · inputs: what `gptq` multiplies, two and a half times
};

Size size_of(const model::Model& model) {
  Size size;
  for (const model::ModuleShape& module : model.modules()) {
    const double weights = static_cast<double>(module.out_features) * static_cast<double>(module.in_features);
    size.weights += weights;
    size.products += weights * static_cast<double>(module.in_features);
  }
  return size;
}

/// Seconds that a stage's output takes; its first computation, which reads the weights, does not count.
Result<double> time_stage(const model::Model& model, std::int64_t layer, const model::mx::array& hidden) {
  const model::StageWeights weights(model, layer, std::nullopt);
  const model::Pass pass{.compute = kernels::Compute::bf16};
  double seconds = 0;
  for (int i = 0; i < 2; ++i) {
    const auto start = std::chrono::steady_clock::now();
    OPTIQ_CHECK(model::evaluate(
        {layer == model::kOutsideBlocks ? model.head(hidden, pass) : model.block(layer, hidden, pass)}));
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  return seconds;
}

/// Seconds of one forward pass: its blocks are taken to be alike.
Result<double> time_forward(const model::Model& model, std::int64_t tokens) {
  const auto& config = model.config();
  const auto hidden = model::mx::ones({1, static_cast<int>(tokens), static_cast<int>(config.hidden)});
  OPTIQ_TRY(const double block, time_stage(model, 0, hidden));
  OPTIQ_TRY(const double head, time_stage(model, model::kOutsideBlocks, hidden));
  return static_cast<double>(config.layers) * block + head;
}

}  // namespace

Result<Effort> parse_effort(std::string_view name) {
  if (name == "fast") return Effort::fast;
  if (name == "balanced") return Effort::balanced;
  if (name == "best") return Effort::best;
  return fail(ErrorCode::usage, "effort '{}': expected fast, balanced or best", name);
}

Recipe recipe_of(Effort effort) {
  switch (effort) {
    case Effort::fast:
      return {quant::Encoder::range, 32, 0, 0, 0};
    case Effort::balanced:
      return {quant::Encoder::gptq, 128, 0, 0, 0};
    case Effort::best:
      return {quant::Encoder::gptq, 128, 3, 3, 2};
  }
  return {};
}

Result<double> estimate_seconds(const model::Model& model, const Recipe& recipe, std::int64_t tokens,
                                std::int64_t label_draws, std::size_t formats) {
  OPTIQ_TRY(const double forward, time_forward(model, tokens));
  const Size size = size_of(model);
  const auto sequences = static_cast<double>(recipe.sequences);
  const auto draws = static_cast<double>(label_draws);
  const auto threads = static_cast<double>(thread_count());
  const bool compensates = recipe.encoder == quant::Encoder::gptq;
  // One format of every module; and the passes that measure inputs, whose products cost as much again.
  const double encoding = (size.weights / kRangeWeightsPerSecond +
                           (compensates ? 2.5 * size.products / kGptqProductsPerSecond : 0.0)) /
                          threads;
  const double inputs = sequences * forward * (compensates ? 2 : 1);
  const double projections =
      draws * static_cast<double>(formats) * size.weights * 2 / (kProjectionBytesPerSecond * threads);
  const double profile = inputs + static_cast<double>(formats) * encoding +
                         sequences * (forward * (1 + 3 * draws) + projections);
  const double plans = (1 + recipe.refine_rounds + (model::is_streamed(model) ? 0 : kGuards)) *
                       (encoding + (compensates ? 1.5 * inputs : 0.0) + 5 * kHeldOutSequences * forward);
  const RoundOptions rounding;
  const double steps = static_cast<double>(rounding.steps * rounding.batch_sequences);
  const double learning = recipe.learned_bits > 0 ? (3 * steps + 3 * sequences) * forward : 0.0;
  const double distillation =
      static_cast<double>(recipe.distill_epochs) * sequences * 4 * forward +
      (recipe.distill_epochs > 0 ? (sequences + kChecks * kHeldOutSequences / 2) * forward : 0.0);
  return profile + plans + learning + distillation;
}

}  // namespace optiq::tune
