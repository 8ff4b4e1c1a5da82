#include "score_choices.h"

#include <algorithm>

namespace optiq::evaluate {
namespace {

namespace mx = model::mx;

/// Positions whose logits are held at once.
constexpr std::size_t kPositionsAtOnce = 256;

/// One log-probability to read: of a label behind a position of the rows laid end to end.
struct Read {
  std::int32_t position;
  std::int32_t label;
  std::size_t choice;
};

std::vector<Read> reads_of(std::span<const Row> rows, std::size_t shared, std::size_t length) {
  std::vector<Read> reads;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    for (const Target& target : rows[r].targets) {
      for (std::size_t i = 0; i < target.labels.size(); ++i) {
        const std::size_t position = r * length + target.first + i - shared;
        reads.push_back({static_cast<std::int32_t>(position), target.labels[i], target.choice});
      }
    }
  }
  return reads;
}

mx::array indices(const std::vector<std::int32_t>& values) {
  return mx::array(values.data(), {static_cast<int>(values.size())}, mx::int32);
}

/// One layer's keys and values for `rows` sequences.
model::LayerCache repeated(const model::LayerCache& cache, int rows) {
  const auto repeat = [&](const mx::array& buffer) {
    mx::Shape shape = buffer.shape();
    shape[2] = cache.rows();
    const mx::array valid = mx::slice(buffer, {0, 0, 0, 0}, shape);
    shape[0] = rows;
    return mx::broadcast_to(valid, shape);
  };
  return {repeat(cache.keys), repeat(cache.values), cache.tokens, cache.released};
}

/// Rows without their shared tokens, padded behind: causal attention keeps padding out of what is read.
mx::array token_array(std::span<const Row> rows, std::size_t shared, std::size_t length) {
  std::vector<std::int32_t> ids(rows.size() * length, 0);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    std::copy(rows[r].tokens.begin() + static_cast<std::ptrdiff_t>(shared), rows[r].tokens.end(),
              ids.begin() + static_cast<std::ptrdiff_t>(r * length));
  }
  return mx::array(ids.data(), {static_cast<int>(rows.size()), static_cast<int>(length)}, mx::int32);
}

std::size_t padded_length(std::span<const Row> rows, std::size_t shared) {
  std::size_t longest = 0;
  for (const Row& row : rows) longest = std::max(longest, row.tokens.size() - shared);
  return longest;
}

}  // namespace

Status ChoiceScorer::share(const Batch& batch) {
  const auto& tokens = batch.rows.front().tokens;
  const std::span<const std::int32_t> wanted(tokens.data(), batch.shared);
  if (std::ranges::equal(wanted, shared_tokens_)) return {};
  shared_tokens_.clear();
  shared_ = model_.make_cache();
  if (wanted.empty()) return {};
  const model::Pass pass{.compute = compute_, .cache = &shared_};
  const mx::array ids(wanted.data(), {1, static_cast<int>(wanted.size())}, mx::int32);
  mx::array hidden = model_.embed(ids, pass);
  for (std::int64_t layer = 0; layer < model_.config().layers; ++layer) {
    hidden = model_.block(layer, hidden, pass);
    const model::LayerCache& cache = shared_[static_cast<std::size_t>(layer)];
    OPTIQ_CHECK(model::evaluate({cache.keys, cache.values}));
  }
  shared_tokens_.assign(wanted.begin(), wanted.end());
  return {};
}

/// [rows, length, hidden]. The shared keys and values are repeated one layer at a time.
Result<mx::array> ChoiceScorer::hidden_of(std::span<const Row> rows, std::size_t shared) const {
  model::KvCache cache = model_.make_cache();
  model::Pass pass{.compute = compute_};
  if (shared > 0) pass.cache = &cache;
  mx::array hidden = model_.embed(token_array(rows, shared, padded_length(rows, shared)), pass);
  for (std::size_t layer = 0; layer < cache.size(); ++layer) {
    if (shared > 0) cache[layer] = repeated(shared_[layer], static_cast<int>(rows.size()));
    hidden = model_.block(static_cast<std::int64_t>(layer), hidden, pass);
    OPTIQ_CHECK(model::evaluate({hidden}));
    cache[layer] = {};
  }
  return hidden;
}

Status ChoiceScorer::score_rows(std::span<const Row> rows, std::size_t shared,
                                std::vector<double>& likelihoods) const {
  OPTIQ_TRY(const mx::array hidden, hidden_of(rows, shared));
  const mx::array flat = mx::reshape(hidden, {-1, hidden.shape(2)});
  const std::vector<Read> reads = reads_of(rows, shared, static_cast<std::size_t>(hidden.shape(1)));
  for (std::size_t first = 0; first < reads.size(); first += kPositionsAtOnce) {
    const auto part = std::span(reads).subspan(first, std::min(kPositionsAtOnce, reads.size() - first));
    std::vector<std::int32_t> positions, places, labels;
    for (const Read& read : part) {
      if (positions.empty() || positions.back() != read.position) positions.push_back(read.position);
      places.push_back(static_cast<std::int32_t>(positions.size() - 1));
      labels.push_back(read.label);
    }
    const mx::array chosen = mx::expand_dims(mx::take(flat, indices(positions), 0), 0);
    const mx::array logits = mx::squeeze(model_.head(chosen, {.compute = compute_}), 0);
    const mx::array found =
        kernels::label_log_probabilities(mx::take(logits, indices(places), 0), indices(labels));
    OPTIQ_CHECK(model::evaluate({found}));
    for (std::size_t i = 0; i < part.size(); ++i) likelihoods[part[i].choice] += found.data<float>()[i];
  }
  return {};
}

Result<std::vector<double>> ChoiceScorer::score(const Batch& batch) {
  std::vector<double> likelihoods(batch.choices, 0.0);
  OPTIQ_CHECK(share(batch));
  const std::size_t step = batch.one_by_one ? 1 : batch.rows.size();
  for (std::size_t row = 0; row < batch.rows.size(); row += step)
    OPTIQ_CHECK(score_rows(std::span(batch.rows).subspan(row, step), batch.shared, likelihoods));
  return likelihoods;
}

}  // namespace optiq::evaluate
