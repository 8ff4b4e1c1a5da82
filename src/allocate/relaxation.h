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

/// bad_input for an item without options, a cost that is not finite, or sizes that add up to 2^53 or more.
Status check_items(const Items& items);

/// The smallest option of each item; the cheapest of those that are equally small.
Choice smallest_choice(const Items& items);

/// Bytes and cost of a choice, summed in integers and in double.
Solution total(const Items& items, Choice choice);

/// Every hull step of every item, steepest first; a stable order, and an item's own steps stay in theirs.
std::vector<Step> hull_steps(const Items& items);

struct Relaxation {
  Choice incumbent;        ///< feasible: the greedy choice, then filled up
  double lower_bound = 0;  ///< no choice within the budget costs less
  double price = 0;        ///< cost a byte at the optimum of the relaxation
};

/// Needs check_items, and a budget that smallest_choice meets.
Relaxation relax(const Items& items, std::uint64_t budget_bytes);

}  // namespace optiq::allocate
