#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "relaxation.h"

namespace optiq::allocate {
namespace {

/// Gains below this fraction of the cost are float rounding, not progress.
constexpr double kLeastGain = 1e-6;

/// A change of one item, in units of the sum of squares.
struct Move {
  std::size_t item = 0;
  std::size_t option = 0;
  std::int64_t bytes = 0;        ///< more than now (may be negative)
  std::int64_t picoseconds = 0;  ///< likewise
  double alone = 0;              ///< change of Σ_s r² if made alone: 2 r·d + d·d
  const float* delta = nullptr;  ///< d, [samples]
};

double dot(const float* a, const float* b, std::size_t count) {
  constexpr std::size_t kLanes = 16;  // independent sums, so that the compiler may use vectors
  float lanes[kLanes] = {};
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  }
  double sum = 0;
  for (const float lane : lanes) sum += static_cast<double>(lane);
  for (; i < count; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

/// The state of the search: the choice, r = Σ_t projections of the chosen options, and for every other option
/// its difference d from the chosen one.
class Search {
 public:
  Search(const Items& items, const Projections& projections, Capacity capacity, Choice start)
      : items_(items), projections_(projections), choice_(std::move(start)) {
    const Solution used = total(items, choice_);
    unused_bytes_ = static_cast<std::int64_t>(capacity.bytes - used.bytes);
    unused_picoseconds_ = static_cast<std::int64_t>(capacity.picoseconds - used.picoseconds);
    deltas_.resize(items.size());
    for (std::size_t item = 0; item < items.size(); ++item) update_deltas(item);
    update_sum();
  }

  /// Steps to a local optimum.
  Choice run() {
    while (improve_alone() || improve_in_pairs()) {
    }
    return choice_;
  }

 private:
  void update_sum() {
    std::vector<double> sum(projections_.samples, 0.0);
    for (std::size_t item = 0; item < choice_.size(); ++item) {
      const auto& values = projections_.values[item][choice_[item]];
      for (std::size_t s = 0; s < sum.size(); ++s) sum[s] += static_cast<double>(values[s]);
    }
    squares_ = 0;
    sum_.resize(sum.size());
    for (std::size_t s = 0; s < sum.size(); ++s) {
      squares_ += sum[s] * sum[s];
      sum_[s] = static_cast<float>(sum[s]);
    }
  }

  void update_deltas(std::size_t item) {
    const auto& options = projections_.values[item];
    const auto& now = options[choice_[item]];
    deltas_[item].resize(options.size() * projections_.samples);
    for (std::size_t option = 0; option < options.size(); ++option) {
      float* row = deltas_[item].data() + option * projections_.samples;
      for (std::size_t s = 0; s < projections_.samples; ++s) row[s] = options[option][s] - now[s];
    }
  }

  void moves_of(std::size_t item, std::vector<Move>& moves) const {
    const Option& now = items_[item][choice_[item]];
    for (std::size_t option = 0; option < items_[item].size(); ++option) {
      if (option == choice_[item]) continue;
      const float* delta = deltas_[item].data() + option * projections_.samples;
      const double alone =
          2 * dot(sum_.data(), delta, projections_.samples) + dot(delta, delta, projections_.samples);
      const Option& then = items_[item][option];
      moves.push_back({item, option, static_cast<std::int64_t>(then.bytes - now.bytes),
                       static_cast<std::int64_t>(then.picoseconds - now.picoseconds), alone, delta});
    }
  }

  [[nodiscard]] bool fits(std::int64_t bytes, std::int64_t picoseconds) const {
    return bytes <= unused_bytes_ && picoseconds <= unused_picoseconds_;
  }

  /// Makes the changes if the sum of squares, recomputed in double, falls; else leaves all as it was.
  bool apply(std::initializer_list<Move> moves) {
    const Choice before = choice_;
    const double squares_before = squares_;
    for (const Move& move : moves) choice_[move.item] = move.option;
    update_sum();
    if (squares_ >= squares_before * (1 - kLeastGain)) {
      choice_ = before;
      update_sum();
      return false;
    }
    for (const Move& move : moves) {
      unused_bytes_ -= move.bytes;
      unused_picoseconds_ -= move.picoseconds;
      update_deltas(move.item);
    }
    return true;
  }

  /// The best change of each item in turn.
  bool improve_alone() {
    bool improved = false;
    for (std::size_t item = 0; item < items_.size(); ++item) {
      std::vector<Move> moves;
      moves_of(item, moves);
      const Move* best = nullptr;
      for (const Move& move : moves) {
        if (fits(move.bytes, move.picoseconds) && (best == nullptr || move.alone < best->alone)) best = &move;
      }
      if (best != nullptr && best->alone < -kLeastGain * squares_) improved |= apply({*best});
    }
    return improved;
  }

  /// The best exchange of each item with any later one in turn.
  bool improve_in_pairs() {
    bool improved = false;
    for (std::size_t item = 0; item < items_.size(); ++item) {
      std::vector<Move> mine;
      std::vector<Move> others;
      moves_of(item, mine);
      for (std::size_t other = item + 1; other < items_.size(); ++other) moves_of(other, others);
      const auto [first, second] = best_pair(mine, others);
      if (first != nullptr) improved |= apply({*first, *second});
    }
    return improved;
  }

  [[nodiscard]] std::pair<const Move*, const Move*> best_pair(const std::vector<Move>& mine,
                                                              const std::vector<Move>& others) const {
    std::pair<const Move*, const Move*> best{nullptr, nullptr};
    double least = -kLeastGain * squares_;
    for (const Move& first : mine) {
      for (const Move& second : others) {
        if (!fits(first.bytes + second.bytes, first.picoseconds + second.picoseconds)) continue;
        const double together =
            first.alone + second.alone + 2 * dot(first.delta, second.delta, projections_.samples);
        if (together >= least) continue;
        least = together;
        best = {&first, &second};
      }
    }
    return best;
  }

  const Items& items_;
  const Projections& projections_;
  std::int64_t unused_bytes_ = 0;
  std::int64_t unused_picoseconds_ = 0;
  Choice choice_;
  std::vector<float> sum_;
  double squares_ = 0;                      ///< Σ_s r²
  std::vector<std::vector<float>> deltas_;  ///< [item][option · samples + s]
};

Status check_choice(const Items& items, const Choice& choice) {
  if (choice.size() != items.size())
    return fail(ErrorCode::bad_input, "a choice of {} options for {} items", choice.size(), items.size());
  for (std::size_t item = 0; item < items.size(); ++item) {
    if (choice[item] >= items[item].size())
      return fail(ErrorCode::bad_input, "item {} has no option {}", item, choice[item]);
  }
  return {};
}

Status check_projections(const Items& items, const Projections& projections) {
  if (projections.values.size() != items.size()) {
    return fail(ErrorCode::bad_input, "projections of {} items, expected {}", projections.values.size(),
                items.size());
  }
  for (std::size_t item = 0; item < items.size(); ++item) {
    const auto& options = projections.values[item];
    const bool lengths_match = std::all_of(options.begin(), options.end(), [&](const auto& values) {
      return values.size() == projections.samples;
    });
    if (options.size() != items[item].size() || !lengths_match) {
      return fail(ErrorCode::bad_input, "item {}: expected {} options of {} projections each", item,
                  items[item].size(), projections.samples);
    }
  }
  return {};
}

}  // namespace

double interaction_cost(const Projections& projections, const Choice& choice) {
  double squares = 0;
  for (std::size_t s = 0; s < projections.samples; ++s) {
    double sum = 0;
    for (std::size_t item = 0; item < choice.size(); ++item)
      sum += static_cast<double>(projections.values[item][choice[item]][s]);
    squares += sum * sum;
  }
  return projections.samples == 0 ? 0
                                  : projections.scale * squares / static_cast<double>(projections.samples);
}

Result<Solution> refine(const Items& items, const Projections& projections, Capacity capacity, Choice start) {
  const auto begin = std::chrono::steady_clock::now();
  OPTIQ_CHECK(check_items(items));
  OPTIQ_CHECK(check_choice(items, start));
  OPTIQ_CHECK(check_projections(items, projections));
  const Solution begun = total(items, start);
  if (!fits(begun, capacity)) {
    return fail(ErrorCode::bad_input, "the choice to refine takes {} bytes and {} ps, allowed are {} and {}",
                begun.bytes, begun.picoseconds, capacity.bytes, capacity.picoseconds);
  }
  Solution result = total(items, Search(items, projections, capacity, std::move(start)).run());
  result.cost = interaction_cost(projections, result.choice);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

}  // namespace optiq::allocate
