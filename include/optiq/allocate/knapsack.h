// The multiple-choice knapsack: one option for each item, least total cost within hard limits. Pure: knows no
// tensor, no file and no MLX.
#pragma once

#include <cstdint>
#include <vector>

#include "optiq/base/result.h"

namespace optiq::allocate {

struct Option {
  double cost = 0;  ///< finite; may be negative (a noisy estimate)
  std::uint64_t bytes = 0;
};

using Items = std::vector<std::vector<Option>>;  ///< at least one option each
using Choice = std::vector<std::size_t>;         ///< index of the chosen option of each item

struct Solution {
  Choice choice;
  double cost = 0;
  std::uint64_t bytes = 0;
  double gap = 0;      ///< proven relative distance to the optimum (0 = proven optimal)
  double seconds = 0;  ///< time of the solve
};

struct SolveLimits {
  double seconds = 60;
  double relative_gap = 1e-6;          ///< at which HiGHS may stop
  std::size_t search_states = 20'000;  ///< width of the search that comes before HiGHS; 0 leaves it out
};

/// Drops options that another option of the same item beats in both cost and bytes. Returns kept indices, by
/// bytes.
std::vector<std::vector<std::size_t>> undominated(const Items& items);

/// Exact minimum. The linear relaxation bounds every option from below; a dynamic program over the options
/// near its optimum nearly always finds and proves the optimum; where its states run out, HiGHS solves what
/// the bounds leave by branch and bound. The result never exceeds budget_bytes: the sum is checked in
/// integers by code apart from the solvers. Errors: impossible_budget says the smallest possible total;
/// bad_input for an item with no option, a cost that is not finite, or sizes that add up to 2^53 bytes or
/// more. Deterministic unless limits.seconds is reached; then the best choice found so far comes with its
/// gap. Method: Sinha and Zoltners, "The multiple-choice knapsack problem" (1979); Pisinger (1995) for the
/// search.
Result<Solution> solve(const Items& items, std::uint64_t budget_bytes, const SolveLimits& limits = {});

/// The frontier: the optima at every budget where the convex hull of (bytes, cost) has a corner, from the
/// smallest possible total to that of the least cost. Bytes rise and costs fall strictly. At most most_points
/// (≥ 2) of them, evenly spread over the corners, both ends included. O(n log n) for n options, and
/// most_points · items of memory. Errors as of solve.
Result<std::vector<Solution>> frontier(const Items& items, std::size_t most_points = 512);

/// The cost of a choice as a whole: each sample's projections add up before they are squared (DESIGN
/// "fisher").
struct Projections {
  std::size_t samples = 0;
  double scale = 1;  ///< multiplies the mean of squares: ½ / tokens a sequence
  std::vector<std::vector<std::vector<float>>> values;  ///< [item][option][sample]
};

/// scale · mean_s (Σ_t values[t][choice[t]][s])², in double. 0 where there are no samples.
double interaction_cost(const Projections& projections, const Choice& choice);

/// Local search from `start` on interaction_cost by single changes and exchanges of two items, within the
/// budget, until neither lowers it (beyond float's rounding). Never worse than `start`. Solution::gap is not
/// proven and left 0. One sweep costs (options of all items)² · samples / 2 multiplications.
/// bad_input where `start` is over budget or the shapes do not match.
Result<Solution> refine(const Items& items, const Projections& projections, std::uint64_t budget_bytes,
                        Choice start);

}  // namespace optiq::allocate
