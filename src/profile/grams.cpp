#include "optiq/profile/grams.h"

namespace optiq::profile {
namespace {

namespace mx = model::mx;

/// One stage's inputs while they are summed over sequences.
class GramSums {
 public:
  /// To be given as a pass's tap; modules that read the same array share a sum.
  void add(const std::string& module, const mx::array& input) {
    const auto [known, is_new] = input_of_.try_emplace(module, module);
    if (is_new && input.id() == last_input_) known->second = input_of_.at(last_module_);
    last_input_ = input.id();
    last_module_ = module;
    if (known->second != module) return;
    const mx::array gram = kernels::gram(input);
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
  std::map<std::string, mx::array> sums_;
  std::map<std::string, std::string> input_of_;  ///< module → the one that holds its sum
  std::uintptr_t last_input_ = 0;
  std::string last_module_;
};

using Stage = std::function<mx::array(const mx::array& hidden, const model::Pass& pass)>;

class Walk {
 public:
  Walk(const model::Model& model, const calibrate::TokenBatch& batch, kernels::Compute compute,
       const Progress& progress, double stages)
      : model_(model),
        batch_(batch),
        compute_(compute),
        progress_(progress),
        total_(stages * static_cast<double>(batch.sequences)) {}

  Status embed() {
    for (std::int64_t i = 0; i < batch_.sequences; ++i) {
      hidden_.push_back(model_.embed(batch_.array(i), {.compute = compute_}));
      OPTIQ_CHECK(model::evaluate({hidden_.back()}));
    }
    return {};
  }

  /// The stage's Grams to `visit`, and the hidden states behind it.
  Status advance(const Stage& stage, std::int64_t layer, const GramVisitor& visit) {
    GramSums sums;
    std::vector<mx::array> next;
    for (const mx::array& hidden : hidden_) {
      report_progress(progress_, "measuring inputs", done_++, total_);
      model::Pass pass{.compute = compute_};
      pass.tap = [&](const std::string& module, const mx::array& input) { sums.add(module, input); };
      next.push_back(stage(hidden, pass));
      std::vector<mx::array> wanted = sums.arrays();
      if (layer >= 0) wanted.push_back(next.back());
      OPTIQ_CHECK(model::evaluate(std::move(wanted)));
    }
    const auto grams = sums.means(batch_.sequences * batch_.tokens);
    if (!grams) return tl::unexpected(describe_non_finite(model_));
    OPTIQ_TRY(const Replacements replaced, visit(layer, *grams));
    if (layer < 0) return {};  // nothing comes behind the head
    for (std::size_t i = 0; !replaced.empty() && i < hidden_.size(); ++i) {
      next[i] = stage(hidden_[i], {.compute = compute_, .weights = &replaced});
      OPTIQ_CHECK(model::evaluate({next[i]}));
    }
    hidden_ = std::move(next);
    return {};
  }

 private:
  const model::Model& model_;
  const calibrate::TokenBatch& batch_;
  kernels::Compute compute_;
  const Progress& progress_;
  double total_;
  double done_ = 0;
  std::vector<mx::array> hidden_;  ///< of each sequence, in front of the stage to come
};

}  // namespace

Status walk_grams(const model::Model& model, const calibrate::TokenBatch& batch, kernels::Compute compute,
                  const GramVisitor& visit, const Progress& progress) {
  const std::int64_t layers = model.config().layers;
  Walk walk(model, batch, compute, progress, static_cast<double>(layers + 1));
  OPTIQ_CHECK(walk.embed());
  for (std::int64_t layer = 0; layer < layers; ++layer) {
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
