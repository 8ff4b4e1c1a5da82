#include "optiq/profile/grams.h"

#include <algorithm>

namespace optiq::profile {
namespace {

namespace mx = model::mx;

/// Sequences go through a block together until they have so many tokens: a Gram is written once for all.
constexpr std::int64_t kTokensAtOnce = 2048;

/// One stage's inputs while they are summed over sequences.
class GramSums {
 public:
  explicit GramSums(kernels::Compute compute) : compute_(compute) {}

  /// To be given as a pass's tap; modules that read the same array share a sum.
  void add(const std::string& module, const mx::array& input) {
    const auto [known, is_new] = input_of_.try_emplace(module, module);
    if (is_new && input.id() == last_input_) known->second = input_of_.at(last_module_);
    last_input_ = input.id();
    last_module_ = module;
    if (known->second != module) return;
    const mx::array gram = kernels::gram(input, compute_);
    const auto [place, first] = sums_.try_emplace(module, gram);
    if (!first) place->second = place->second + gram;
  }

  [[nodiscard]] std::vector<mx::array> arrays() const {
    std::vector<mx::array> result;
    for (const auto& [module, sum] : sums_) result.push_back(sum);
    return result;
  }

  /// The means over `tokens` tokens.
  [[nodiscard]] Result<Grams> means(std::int64_t tokens) const {
    Grams grams;
    for (const auto& [module, sum] : sums_) {
      std::vector<float> moments(sum.data<float>(), sum.data<float>() + sum.size());
      for (float& value : moments) value /= static_cast<float>(tokens);
      OPTIQ_TRY(auto gram, quant::Gram::make(std::move(moments), sum.shape(0), module));
      grams[module] = std::make_shared<const quant::Gram>(std::move(gram));
    }
    for (const auto& [module, owner] : input_of_) grams[module] = grams.at(owner);
    return grams;
  }

 private:
  kernels::Compute compute_;
  std::map<std::string, mx::array> sums_;
  std::map<std::string, std::string> input_of_;  ///< module → the one that holds its sum
  std::uintptr_t last_input_ = 0;
  std::string last_module_;
};

using Stage = std::function<mx::array(const mx::array& hidden, const model::Pass& pass)>;

class Walk {
 public:
  Walk(const model::Model& model, const calibrate::TokenBatch& batch, const WalkOptions& options,
       const Progress& progress)
      : model_(model),
        batch_(batch),
        options_(options),
        progress_(progress),
        total_(static_cast<double>((model.config().layers + 1) * batch.sequences)) {}

  Status embed() {
    const std::int64_t step = std::max<std::int64_t>(1, kTokensAtOnce / batch_.tokens);
    for (std::int64_t i = 0; i < batch_.sequences; i += step) {
      const mx::array tokens = batch_.array(i, std::min(step, batch_.sequences - i));
      hidden_.push_back(model_.embed(tokens, {.compute = options_.compute}));
      OPTIQ_CHECK(model::evaluate({hidden_.back()}));
    }
    return {};
  }

  /// The stage's Grams to `visit`, and the hidden states behind it.
  Status advance(const Stage& stage, std::int64_t layer, const GramVisitor& visit) {
    const bool has_next = layer >= 0;  // nothing comes behind the head
    GramSums sums(options_.compute);
    std::vector<mx::array> next;
    for (const mx::array& hidden : hidden_) {
      report(hidden);
      model::Pass pass{.compute = options_.compute};
      pass.tap = [&](const std::string& module, const mx::array& input) { sums.add(module, input); };
      const mx::array output = stage(hidden, pass);
      std::vector<mx::array> wanted = sums.arrays();
      if (has_next && !options_.replaces) {
        next.push_back(output);
        wanted.push_back(output);
      }
      OPTIQ_CHECK(model::evaluate(std::move(wanted)));
    }
    const auto grams = sums.means(batch_.sequences * batch_.tokens);
    if (!grams) return tl::unexpected(describe_non_finite(model_));
    OPTIQ_TRY(const Replacements replaced, visit(layer, *grams));
    if (!has_next) return {};
    if (next.empty() || !replaced.empty()) return pass_on(stage, replaced);
    hidden_ = std::move(next);
    return {};
  }

 private:
  void report(const mx::array& hidden) {
    report_progress(progress_, "measuring inputs", done_, total_);
    done_ += static_cast<double>(hidden.shape(0));
  }

  /// Every hidden state by what the stage makes of it with its replacements.
  Status pass_on(const Stage& stage, const Replacements& replaced) {
    for (mx::array& hidden : hidden_) {
      hidden = stage(hidden, {.compute = options_.compute, .weights = &replaced});
      OPTIQ_CHECK(model::evaluate({hidden}));
    }
    return {};
  }

  const model::Model& model_;
  const calibrate::TokenBatch& batch_;
  const WalkOptions& options_;
  const Progress& progress_;
  double total_;
  double done_ = 0;
  std::vector<mx::array> hidden_;  ///< [sequences, tokens, hidden], in front of the stage to come
};

}  // namespace

Status walk_grams(const model::Model& model, const calibrate::TokenBatch& batch, const WalkOptions& options,
                  const GramVisitor& visit, const Progress& progress) {
  Walk walk(model, batch, options, progress);
  OPTIQ_CHECK(walk.embed());
  for (std::int64_t layer = 0; layer < model.config().layers; ++layer) {
    const Stage block = [&](const mx::array& hidden, const model::Pass& pass) {
      return model.block(layer, hidden, pass);
    };
    OPTIQ_CHECK(walk.advance(block, layer, visit));
  }
  const Stage head = [&](const mx::array& hidden, const model::Pass& pass) {
    return model.head(hidden, pass);
  };
  return walk.advance(head, -1, visit);
}

std::vector<float> channel_energies(const quant::Gram& gram) {
  const auto size = static_cast<std::size_t>(gram.in_features());
  std::vector<float> energies(size);
  for (std::size_t i = 0; i < size; ++i) energies[i] = gram.moments()[i * size + i];
  return energies;
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
