#include <numeric>

#include "estimators.h"

namespace optiq::profile {
namespace {

namespace mx = model::mx;
using Grams = std::unordered_map<std::string, mx::array>;

/// xᵀ·x of every module's inputs over some sequences.
Result<Grams> input_grams(const Workbench& bench, std::int64_t first, std::int64_t last) {
  Grams grams;
  for (std::int64_t sequence = first; sequence < last; ++sequence) {
    model::Pass pass{.compute = bench.options.compute};
    pass.tap = [&](const std::string& module, const mx::array& input) {
      const mx::array gram = kernels::gram(input);
      const auto [place, is_new] = grams.try_emplace(module, gram);
      if (!is_new) place->second = place->second + gram;
    };
    const mx::array logits = bench.model.forward(bench.batch.array(sequence), pass);
    std::vector<mx::array> wanted;
    for (const auto& [module, gram] : grams) wanted.push_back(gram);
    OPTIQ_CHECK(model::evaluate(wanted));
  }
  return grams;
}

/// tr(M·A·Mᵀ) = Σ (M·A) ∘ M, summed row by row and then in double. M [out, in] of any float dtype, A f32 [in,
/// in].
Result<double> weighted_norm(const mx::array& matrix, const mx::array& gram) {
  const mx::array values = mx::astype(matrix, mx::float32);
  mx::array rows = mx::sum(kernels::linear(values, gram) * values, 1);
  OPTIQ_CHECK(model::evaluate({rows}));
  return std::accumulate(rows.data<float>(), rows.data<float>() + rows.size(), 0.0);
}

}  // namespace

Result<std::vector<Sample>> mse_samples(const Workbench& bench, std::int64_t first, std::int64_t last) {
  OPTIQ_TRY(const Grams grams, input_grams(bench, first, last));
  Sample sample;
  for (std::size_t i = 0; i < bench.subjects.size(); ++i) {
    const model::ModuleShape& module = bench.subjects[i].shape;
    const auto found = grams.find(module.name);
    const mx::array gram =
        found != grams.end() ? found->second : mx::eye(static_cast<int>(module.in_features));
    OPTIQ_TRY(const mx::array stored, bench.model.dense_weight(module.name));
    OPTIQ_TRY(const double whole, weighted_norm(stored, gram));
    for (std::size_t option = 0; option < bench.subjects[i].formats.size(); ++option) {
      OPTIQ_TRY(const double error, weighted_norm(bench.deltas.delta(i, option), gram));
      sample.push_back(static_cast<float>(whole > 0 ? error / whole : 0));
    }
  }
  return std::vector<Sample>{std::move(sample)};
}

}  // namespace optiq::profile
