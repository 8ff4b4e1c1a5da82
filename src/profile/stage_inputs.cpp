#include "stage_inputs.h"

#include <algorithm>

#include "gram_sums.h"

namespace optiq::profile {
namespace {

namespace mx = model::mx;

double sum_of(const mx::array& values) {
  double sum = 0;
  for (std::size_t i = 0; i < values.size(); ++i) sum += static_cast<double>(values.data<float>()[i]);
  return sum;
}

/// ‖matrix·x‖² over all rows x; f32 only within an output channel.
Result<double> energy_of_inputs(const mx::array& matrix, const mx::array& inputs, kernels::Compute compute) {
  const mx::array rows = mx::reshape(inputs, {-1, inputs.shape(-1)});
  mx::array channels = mx::sum(mx::square(kernels::linear(rows, matrix, std::nullopt, compute)), 0);
  OPTIQ_CHECK(model::evaluate({channels}));
  return sum_of(channels);
}

/// tr(M·A·Mᵀ) = Σ (M·A) ∘ M.
Result<double> energy_of_gram(const mx::array& matrix, const mx::array& gram) {
  const mx::array values = mx::astype(matrix, mx::float32);
  mx::array rows = mx::sum(kernels::linear(values, gram) * values, 1);
  OPTIQ_CHECK(model::evaluate({rows}));
  return sum_of(rows);
}

}  // namespace

void StageInputs::add(const std::string& module, const mx::array& input) {
  const auto same = std::ranges::find(pending_, input.id(), [](const auto& p) { return p.second.id(); });
  const std::string& owner = same == pending_.end() ? module : same->first;
  owner_of_.try_emplace(module, owner);
  if (owner == module) pending_.emplace_back(module, input);
}

Status StageInputs::evaluate() {
  for (auto& [module, input] : pending_) {
    input = mx::contiguous(mx::astype(input, mx::float32));
    OPTIQ_CHECK(model::evaluate({input}));
    auto place = stores_.find(module);
    if (place == stores_.end()) {
      OPTIQ_TRY(Store store, make_store(input));
      place = stores_.emplace(module, std::move(store)).first;
    }
    OPTIQ_CHECK(keep(place->second, input));
  }
  pending_.clear();
  ++sequence_;
  return {};
}

Result<StageInputs::Store> StageInputs::make_store(const mx::array& input) {
  Store store;
  const auto width = static_cast<std::uint64_t>(input.shape(-1));
  store.is_gram = tokens_ * pieces_.length > input.shape(-1);
  const auto count = static_cast<std::size_t>(store.is_gram ? pieces_.count() : pieces_.sequences);
  const std::uint64_t rows = store.is_gram ? width : static_cast<std::uint64_t>(tokens_);
  const std::uint64_t bytes = rows * width * sizeof(float);
  OPTIQ_TRY(store.arrays, model::make_activations(count, bytes, least_bytes_, memory_));
  if (!store.arrays.is_on_disk()) least_bytes_ += count * bytes;
  store.energy.resize(width);
  return store;
}

Status StageInputs::keep(Store& store, const mx::array& input) {
  const std::size_t width = store.energy.size();
  const auto* values = input.data<float>();
  for (std::size_t i = 0; i < input.size(); ++i)
    store.energy[i % width] += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  if (!store.is_gram) return store.arrays.put(static_cast<std::size_t>(sequence_), input);

  mx::array gram = kernels::gram(input);
  OPTIQ_CHECK(model::evaluate({gram}));
  add_gram(gram, store.sum);
  const bool is_last = (sequence_ + 1) % pieces_.length == 0 || sequence_ + 1 == pieces_.sequences;
  if (!is_last) return {};
  const int side = static_cast<int>(width);
  const mx::array whole(store.sum.data(), {side, side}, mx::float32);
  std::vector<float>().swap(store.sum);  // its memory, too
  return store.arrays.put(static_cast<std::size_t>(sequence_ / pieces_.length), whole);
}

Status StageInputs::share(const Workers& workers) {
  for (auto& [module, store] : stores_) OPTIQ_CHECK(workers.sum(store.energy));
  return {};
}

std::vector<float> StageInputs::energies(const std::string& module, std::int64_t tokens) const {
  const Store& store = stores_.at(owner_of_.at(module));
  std::vector<float> means;
  for (const double energy : store.energy)
    means.push_back(static_cast<float>(energy / static_cast<double>(tokens)));
  return means;
}

Status StageInputs::add_output_energy(const std::string& module, const mx::array& matrix,
                                      kernels::Compute compute, std::vector<double>& sums) const {
  const Store& store = stores_.at(owner_of_.at(module));
  for (std::size_t i = 0; i < store.arrays.count(); ++i) {
    OPTIQ_TRY(const mx::array array, store.arrays.get(i));
    OPTIQ_TRY(const double energy,
              store.is_gram ? energy_of_gram(matrix, array) : energy_of_inputs(matrix, array, compute));
    sums[store.is_gram ? i : i / static_cast<std::size_t>(pieces_.length)] += energy;
  }
  return {};
}

}  // namespace optiq::profile
