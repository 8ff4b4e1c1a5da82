#include <algorithm>
#include <cmath>

#include "branch_and_bound.h"
#include "core_search.h"
#include "relaxation.h"

namespace optiq::allocate {
namespace {

/// Gaps below this are the rounding of the bound's own arithmetic.
constexpr double kGapRounding = 1e-9;

/// The optimum from its relaxation: by the search (which knows one limit), else by branch and bound, with the
/// gap that is proven.
Solution close_gap(const Items& items, Relaxation relaxation, Capacity capacity, const SolveLimits& limits,
                   Clock::time_point start) {
  double bound = relaxation.lower_bound;
  bool proven = total(items, relaxation.incumbent).cost <= bound;
  if (!proven && limits.search_states > 0 && capacity.picoseconds == Capacity::kAnyTime) {
    CoreSearch search = search_core(items, relaxation, capacity.bytes, limits.search_states);
    proven = search.complete;
    relaxation.incumbent = std::move(search.choice);
  }
  Solution best = total(items, relaxation.incumbent);
  if (proven) {
    bound = best.cost;
  } else {
    bound = std::max(bound, branch_and_bound(items, relaxation, capacity, limits, start, best));
  }
  const double gap = (best.cost - bound) / std::max(std::fabs(best.cost), 1e-300);
  best.gap = gap < kGapRounding ? 0 : gap;
  return best;
}

/// Without regard to time. Needs a budget that the smallest choice meets.
Solution solve_bytes(const Items& items, std::uint64_t budget_bytes, const SolveLimits& limits,
                     Clock::time_point start) {
  const Items timeless = at_time_price(items, 0);
  const Solution best = close_gap(timeless, relax(timeless, budget_bytes), budget_bytes, limits, start);
  Solution timed = total(items, best.choice);
  timed.gap = best.gap;
  return timed;
}

/// The least time within the bytes; any choice that is fast enough will do.
Solution fast_enough(const Items& items, Capacity capacity, const SolveLimits& limits,
                     Clock::time_point start) {
  Items times = items;
  for (auto& options : times)
    for (Option& option : options) option = {static_cast<double>(option.picoseconds), option.bytes};
  const Solution greedy = total(items, relax(times, capacity.bytes).incumbent);
  if (fits(greedy, capacity)) return greedy;
  return total(items, solve_bytes(times, capacity.bytes, limits, start).choice);
}

/// The program whose bytes are the items' times, and the other way round.
Items exchanged(const Items& items) {
  Items result = items;
  for (auto& options : result)
    for (Option& option : options) std::swap(option.bytes, option.picoseconds);
  return result;
}

/// Under both limits, from a choice that meets them. Where the relaxation gives one of them no price, the
/// optimum under the other alone nearly always meets it too.
Solution solve_both(const Items& items, Capacity capacity, Choice feasible, const SolveLimits& limits,
                    Clock::time_point start) {
  Relaxation relaxation = relax(items, capacity, std::move(feasible));
  if (relaxation.time_price == 0) {
    Solution by_bytes = solve_bytes(items, capacity.bytes, limits, start);
    if (fits(by_bytes, capacity)) return by_bytes;
  }
  if (relaxation.price == 0) {
    Solution by_time = solve_bytes(exchanged(items), capacity.picoseconds, limits, start);
    std::swap(by_time.bytes, by_time.picoseconds);
    if (fits(by_time, capacity)) return by_time;
  }
  return close_gap(items, std::move(relaxation), capacity, limits, start);
}

Status check_smallest(const Items& items, std::uint64_t budget_bytes) {
  OPTIQ_CHECK(check_items(items));
  const Solution smallest = total(items, smallest_choice(items));
  if (smallest.bytes <= budget_bytes) return {};
  return fail(ErrorCode::impossible_budget,
              "{} bytes are not enough: the smallest possible total is {} bytes", budget_bytes,
              smallest.bytes);
}

bool limits_time(const Items& items, Capacity capacity) {
  std::uint64_t most = 0;
  for (const auto& options : items) {
    most += std::max_element(options.begin(), options.end(), [](const Option& a, const Option& b) {
              return a.picoseconds < b.picoseconds;
            })->picoseconds;
  }
  return most > capacity.picoseconds;
}

}  // namespace

Result<Solution> solve(const Items& items, Capacity capacity, const SolveLimits& limits) {
  const auto start = Clock::now();
  OPTIQ_CHECK(check_smallest(items, capacity.bytes));
  Solution best;
  if (limits_time(items, capacity)) {
    Solution fast = fast_enough(items, capacity, limits, start);
    if (!fits(fast, capacity)) {
      return fail(
          ErrorCode::impossible_budget,
          "{} picoseconds are not enough: the smallest possible total within {} bytes is {} picoseconds",
          capacity.picoseconds, capacity.bytes, fast.picoseconds);
    }
    best = solve_both(items, capacity, std::move(fast.choice), limits, start);
  } else {
    best = solve_bytes(items, capacity.bytes, limits, start);
  }
  best.seconds = seconds_since(start);
  return best;
}

Result<Solution> fastest(const Items& items, std::uint64_t budget_bytes, const SolveLimits& limits) {
  const auto start = Clock::now();
  OPTIQ_CHECK(check_smallest(items, budget_bytes));
  Solution best = fast_enough(items, {budget_bytes, 0}, limits, start);
  best.seconds = seconds_since(start);
  return best;
}

}  // namespace optiq::allocate
