// The linear relaxation of the multiple-choice knapsack, solved by its greedy steps.
#pragma once

#include <vector>

#include "optiq/allocate/knapsack.h"

namespace optiq::allocate {

/// Moving one item from an option of its convex hull to the next larger one.
struct Step {
  std::size_t item = 0;
  std::size_t from = 0;  ///< options of the item
  std::size_t to = 0;
  std::uint64_t bytes = 0;  ///< more than before; > 0
  double saving = 0;        ///< less cost than before; > 0

  [[nodiscard]] double slope() const { return saving / static_cast<double>(bytes); }
};

/// bad_input for an item without options, a cost that is not finite, or sizes or times that add up to 2^53 or
/// more.
Status check_items(const Items& items);

/// The smallest option of each item; the cheapest of those that are equally small.
Choice smallest_choice(const Items& items);

/// Bytes, time and cost of a choice, summed in integers and in double.
Solution total(const Items& items, Choice choice);

inline bool fits(const Solution& solution, Capacity capacity) {
  return solution.bytes <= capacity.bytes && solution.picoseconds <= capacity.picoseconds;
}

/// The same items with cost + time_price · picoseconds as their cost, and no time.
Items at_time_price(const Items& items, double time_price);

/// Every hull step of every item, steepest first; a stable order, and an item's own steps stay in theirs. For
/// items without time.
std::vector<Step> hull_steps(const Items& items);

struct Relaxation {
  Choice incumbent;        ///< feasible: the greedy choice, then filled up
  double lower_bound = 0;  ///< no choice within the capacity costs less
  double price = 0;        ///< cost a byte at the optimum of the relaxation
  double time_price = 0;   ///< likewise, cost a picosecond

  [[nodiscard]] double priced(const Option& option) const {
    return option.cost + price * static_cast<double>(option.bytes) +
           time_price * static_cast<double>(option.picoseconds);
  }
};

/// For items without time. Needs check_items, and a budget that smallest_choice meets.
Relaxation relax(const Items& items, std::uint64_t budget_bytes);

/// Under both limits: the price of time is that of the largest bound, found by golden section (the bound is
/// concave in it); at any price the bound holds. `feasible` is a choice within the capacity; the incumbent is
/// the cheapest of it and of the greedy choices that were met and fit.
/// Method: Lagrangian relaxation; Fisher, "The Lagrangian relaxation method" (1981).
Relaxation relax(const Items& items, Capacity capacity, Choice feasible);

}  // namespace optiq::allocate
