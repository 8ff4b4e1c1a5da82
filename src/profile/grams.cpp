#include "optiq/profile/grams.h"

#include <algorithm>

#include "gram_sums.h"
#include "walk.h"

namespace optiq::profile {
namespace {

namespace mx = model::mx;

/// Sequences go through a block together until they have so many tokens: a Gram is written once for all.
constexpr std::int64_t kTokensAtOnce = 2048;

std::int64_t sequences_together(std::int64_t tokens) {
  return std::max<std::int64_t>(1, kTokensAtOnce / tokens);
}

/// The Grams of a block: one in front of the attention, of its output, of the MLP, and of the down
/// projection.
std::uint64_t sum_bytes(const model::Model& model) {
  const model::ModelConfig& config = model.config();
  const auto square = [](std::int64_t width) {
    return static_cast<std::uint64_t>(width * width) * sizeof(float);
  };
  return 2 * square(config.hidden) + square(config.heads * config.head_dim) + square(config.intermediate);
}

std::uint64_t widest_bytes(const model::Model& model) {
  std::int64_t widest = 0;
  for (const model::ModuleShape& module : model.modules()) {
    if (module.layer == 0) widest = std::max(widest, module.in_features);
  }
  return static_cast<std::uint64_t>(widest * widest) * sizeof(float);
}

class GramWalk {
 public:
  GramWalk(const WalkSetting& setting, const WalkOptions& options, Walk walk, const GramVisitor& visitor,
           const Progress& progress)
      : setting_(setting),
        options_(options),
        walk_(std::move(walk)),
        visitor_(visitor),
        progress_(progress) {}

  Status visit_block(std::int64_t layer) {
    GramSums sums(options_.compute, options_.weights);
    const bool wanted = is_wanted(layer);
    const Watch watch = watch_of(sums);
    if (!options_.replaces) {
      OPTIQ_CHECK(walk_.advance(layer, wanted ? &watch : nullptr, nullptr));
      return visit(layer, std::move(sums)).map([](const auto&) {});
    }
    if (wanted) OPTIQ_CHECK(walk_.watch(layer, watch));
    OPTIQ_TRY(const Replacements replaced, visit(layer, std::move(sums)));
    return walk_.advance(layer, nullptr, &replaced);
  }

  Status visit_head() {
    GramSums sums(options_.compute, options_.weights);
    const Watch watch = watch_of(sums);
    if (is_wanted(model::kOutsideBlocks)) OPTIQ_CHECK(walk_.watch(model::kOutsideBlocks, watch));
    return visit(model::kOutsideBlocks, std::move(sums)).map([](const auto&) {});
  }

 private:
  [[nodiscard]] bool is_wanted(std::int64_t layer) const { return !options_.wants || options_.wants(layer); }

  Watch watch_of(GramSums& sums) {
    return {[&sums](const std::string& module, const mx::array& input) { sums.add(module, input); },
            [this, &sums] {
              const auto stages = static_cast<double>(setting_.model.config().layers + 1);
              report_progress(progress_, "measuring inputs", done_++,
                              stages * static_cast<double>(walk_.groups()));
              return sums.evaluate();
            }};
  }

  Result<Replacements> visit(std::int64_t layer, GramSums sums) {
    const auto grams = std::move(sums).means(setting_.batch.sequences * setting_.batch.tokens);
    if (!grams) return tl::unexpected(describe_non_finite(setting_.model));
    return visitor_(layer, *grams);
  }

  const WalkSetting& setting_;
  const WalkOptions& options_;
  Walk walk_;
  const GramVisitor& visitor_;
  const Progress& progress_;
  double done_ = 0;
};

}  // namespace

Status walk_grams(const model::Model& model, const calibrate::TokenBatch& batch, const WalkOptions& options,
                  const GramVisitor& visit, const Progress& progress) {
  const WalkSetting setting{model,
                            batch,
                            options.compute,
                            options.memory,
                            gram_walk_bytes(model, batch.tokens, options.replaces),
                            sequences_together(batch.tokens)};
  OPTIQ_TRY(Walk begun, Walk::begin(setting));
  GramWalk walk(setting, options, std::move(begun), visit, progress);
  for (std::int64_t layer = 0; layer < model.config().layers; ++layer) OPTIQ_CHECK(walk.visit_block(layer));
  return walk.visit_head();
}

std::uint64_t gram_walk_bytes(const model::Model& model, std::int64_t tokens, bool replaces) {
  std::uint64_t block = 0;
  for (const model::ModuleShape& module : model.modules()) {
    if (module.layer == 0)
      block += static_cast<std::uint64_t>(module.out_features * module.in_features) * sizeof(float);
  }
  const std::uint64_t replaced = replaces ? block : 0;
  const std::int64_t together = sequences_together(tokens);
  // The weight in the file's dtype, and the most that an option takes packed.
  const std::uint64_t encoding = kProcessBytes + gram_encoding_bytes(model, 2 + 2) + replaced;
  return std::max(
      {gram_bytes(model, tokens, together), encoding, model::pass_bytes(model, tokens, together) + replaced});
}

std::uint64_t gram_bytes(const model::Model& model, std::int64_t tokens, std::int64_t together) {
  // A Gram, and its sum.
  return model::pass_bytes(model, tokens, together) + sum_bytes(model) + widest_bytes(model);
}

std::uint64_t factor_bytes(const model::Model& model) {
  return 2 * sum_bytes(model);
}

std::uint64_t gram_encoding_bytes(const model::Model& model, std::uint64_t bytes_of_weight) {
  std::uint64_t in_block = 0, outside = 0;
  for (const model::ModuleShape& module : model.modules()) {
    const auto in = static_cast<std::uint64_t>(module.in_features);
    const std::uint64_t weights = in * static_cast<std::uint64_t>(module.out_features) * bytes_of_weight;
    if (module.layer == 0) in_block = std::max(in_block, weights);
    if (module.layer < 0) outside = std::max(outside, weights + 2 * in * in * sizeof(float));
  }
  return std::max(in_block + factor_bytes(model), outside);
}

Error describe_non_finite(const model::Model& model) {
  const std::string folder = model.checkpoint().folder().string();
  for (const model::ModuleShape& module : model.modules()) {
    const auto weight = model.dense_weight(module.name);
    if (!weight) return weight.error();
    mx::array is_finite = mx::all(mx::isfinite(*weight));
    if (const Status status = model::evaluate({is_finite}); !status) return status.error();
    if (!is_finite.item<bool>())
      return {ErrorCode::bad_input, fmt::format("{}.weight: expected finite weights", module.name)};
  }
  return {ErrorCode::bad_input,
          fmt::format("{}: activations on the calibration data are not finite", folder)};
}

}  // namespace optiq::profile
