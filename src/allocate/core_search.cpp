#include "core_search.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace optiq::allocate {
namespace {

/// Changes recorded for tracing back; beyond this many the search stops as incomplete (12 bytes each).
constexpr std::size_t kMostTraces = 40'000'000;

/// Another option than the base's: what it adds to the base choice.
struct Change {
  std::uint32_t item = 0;
  std::uint32_t option = 0;
  std::int64_t bytes = 0;
  double regret = 0;
};

/// The changes of one item, and what the items after it can still add in bytes.
struct Stage {
  std::vector<Change> changes;
  double least_regret = 0;
  std::int64_t least_after = 0;
  std::int64_t most_after = 0;
};

struct State {
  std::int64_t bytes = 0;  ///< above the base choice
  double regret = 0;
  std::int32_t trace = -1;
};

struct Trace {
  std::int32_t parent = -1;
  std::uint32_t item = 0;
  std::uint32_t option = 0;
};

class Search {
 public:
  Search(const Items& items, const Relaxation& relaxation, std::uint64_t budget_bytes, std::size_t width)
      : items_(items), price_(relaxation.price), width_(width) {
    choose_base();
    slack_ = static_cast<std::int64_t>(budget_bytes) - static_cast<std::int64_t>(total(items, base_).bytes);
    best_choice_ = relaxation.incumbent;
    best_ = excess_of(best_choice_);
    make_stages();
  }

  CoreSearch run() {
    std::vector<State> states{State{}};
    consider(states.front());
    for (const Stage& stage : stages_) {
      states = extend(states, stage);
      if (traces_.size() <= kMostTraces) continue;
      complete_ = false;
      break;
    }
    return {best_trace_ == kNoTrace ? best_choice_ : traced(best_trace_), complete_};
  }

 private:
  static constexpr std::int32_t kNoTrace = -2;

  [[nodiscard]] double priced(std::size_t item, std::size_t option) const {
    return items_[item][option].cost + price_ * static_cast<double>(items_[item][option].bytes);
  }

  void choose_base() {
    for (std::size_t item = 0; item < items_.size(); ++item) {
      std::size_t least = 0;
      for (std::size_t option = 1; option < items_[item].size(); ++option)
        if (priced(item, option) < priced(item, least)) least = option;
      base_.push_back(least);
    }
  }

  [[nodiscard]] Change change(std::size_t item, std::size_t option) const {
    const auto bytes = static_cast<std::int64_t>(items_[item][option].bytes);
    const auto base_bytes = static_cast<std::int64_t>(items_[item][base_[item]].bytes);
    const double saved = items_[item][base_[item]].cost - items_[item][option].cost;
    return {static_cast<std::uint32_t>(item), static_cast<std::uint32_t>(option), bytes - base_bytes,
            std::max(0.0, price_ * static_cast<double>(bytes - base_bytes) - saved)};
  }

  /// Cost of a feasible state above the lower bound.
  [[nodiscard]] double excess(const State& state) const {
    return state.regret + price_ * static_cast<double>(slack_ - state.bytes);
  }

  [[nodiscard]] double excess_of(const Choice& choice) const {
    State state;
    for (std::size_t item = 0; item < choice.size(); ++item) {
      const Change made = change(item, choice[item]);
      state.bytes += made.bytes;
      state.regret += made.regret;
    }
    return excess(state);
  }

  /// Items with an option of small enough regret, those most likely to change first.
  void make_stages() {
    const auto kept = undominated(items_);
    for (std::size_t item = 0; item < items_.size(); ++item) {
      Stage stage{.changes = {}, .least_regret = std::numeric_limits<double>::infinity()};
      for (const std::size_t option : kept[item]) {
        const Change possible = change(item, option);
        if (option == base_[item] || possible.regret >= best_) continue;
        stage.changes.push_back(possible);
        stage.least_regret = std::min(stage.least_regret, possible.regret);
      }
      if (!stage.changes.empty()) stages_.push_back(std::move(stage));
    }
    std::stable_sort(stages_.begin(), stages_.end(),
                     [](const Stage& a, const Stage& b) { return a.least_regret < b.least_regret; });
    for (std::size_t i = stages_.size(); i-- > 1;) {
      stages_[i - 1].least_after = stages_[i].least_after;
      stages_[i - 1].most_after = stages_[i].most_after;
      std::int64_t least = 0;
      std::int64_t most = 0;
      for (const Change& possible : stages_[i].changes) {
        least = std::min(least, possible.bytes);
        most = std::max(most, possible.bytes);
      }
      stages_[i - 1].least_after += least;
      stages_[i - 1].most_after += most;
    }
  }

  /// Remembers a feasible state that beats the best known.
  void consider(const State& state) {
    if (state.bytes > slack_ || excess(state) >= best_) return;
    best_ = excess(state);
    best_trace_ = state.trace;
  }

  /// Whether the stages after this one may still make a better choice of it.
  [[nodiscard]] bool may_win(const State& state, const Stage& stage) const {
    const std::int64_t unused = slack_ - state.bytes;
    if (unused - stage.least_after < 0) return false;
    const std::int64_t surely_unused = std::max<std::int64_t>(0, unused - stage.most_after);
    return state.regret + price_ * static_cast<double>(surely_unused) < best_;
  }

  [[nodiscard]] std::vector<State> shifted(const std::vector<State>& states, const Change& by,
                                           const Stage& stage) const {
    std::vector<State> result;
    for (const State& state : states) {
      const State moved{state.bytes + by.bytes, state.regret + by.regret, state.trace};
      if (may_win(moved, stage)) result.push_back(moved);
    }
    return result;
  }

  std::vector<State> extend(const std::vector<State>& states, const Stage& stage) {
    const auto in_order = [](const State& a, const State& b) {
      return a.bytes != b.bytes ? a.bytes < b.bytes : a.regret < b.regret;
    };
    std::vector<State> merged = shifted(states, Change{}, stage);
    for (const Change& by : stage.changes) {
      std::vector<State> moved = shifted(states, by, stage);
      for (State& state : moved) {
        traces_.push_back({state.trace, by.item, by.option});
        state.trace = static_cast<std::int32_t>(traces_.size() - 1);
        consider(state);
      }
      std::vector<State> both(merged.size() + moved.size());
      std::merge(merged.begin(), merged.end(), moved.begin(), moved.end(), both.begin(), in_order);
      merged = std::move(both);
    }
    return narrowed(std::move(merged), stage);
  }

  /// Drops states that another beats in both bytes and cost, those that cannot win any more, and, beyond the
  /// width, those of most regret.
  std::vector<State> narrowed(std::vector<State> states, const Stage& stage) {
    double least_cost = std::numeric_limits<double>::infinity();
    std::erase_if(states, [&](const State& state) {
      const double cost = state.regret - price_ * static_cast<double>(state.bytes);
      if (cost >= least_cost || !may_win(state, stage)) return true;
      least_cost = cost;
      return false;
    });
    if (states.size() <= width_) return states;
    complete_ = false;
    std::vector<double> regrets;
    for (const State& state : states) regrets.push_back(state.regret);
    std::nth_element(regrets.begin(), regrets.begin() + static_cast<std::ptrdiff_t>(width_), regrets.end());
    std::erase_if(states, [limit = regrets[width_]](const State& state) { return state.regret >= limit; });
    return states;
  }

  [[nodiscard]] Choice traced(std::int32_t trace) const {
    Choice choice = base_;
    for (; trace >= 0; trace = traces_[static_cast<std::size_t>(trace)].parent) {
      const Trace& step = traces_[static_cast<std::size_t>(trace)];
      choice[step.item] = step.option;
    }
    return choice;
  }

  const Items& items_;
  double price_;
  std::size_t width_;
  Choice base_;
  std::int64_t slack_ = 0;  ///< budget above the base choice's bytes; may be negative
  Choice best_choice_;
  double best_ = 0;  ///< excess of the best known
  std::int32_t best_trace_ = kNoTrace;
  bool complete_ = true;
  std::vector<Stage> stages_;
  std::vector<Trace> traces_;
};

}  // namespace

CoreSearch search_core(const Items& items, const Relaxation& relaxation, std::uint64_t budget_bytes,
                       std::size_t width) {
  return Search(items, relaxation, budget_bytes, width).run();
}

}  // namespace optiq::allocate
