// The multiple-choice knapsack: one option for each item, least total cost within hard limits of bytes and of
// time. Pure: knows no tensor, no file and no MLX.
#pragma once

#include <cstdint>
#include <vector>

#include "optiq/base/result.h"

namespace optiq::allocate {

struct Option {
  double cost = 0;  ///< finite; may be negative (a noisy estimate)
  std::uint64_t bytes = 0;
  std::uint64_t picoseconds = 0;  ///< an integer, so that sums are exact
};

/// What the chosen options may take in all.
struct Capacity {
  static constexpr std::uint64_t kAnyTime = std::uint64_t{1} << 62;

  Capacity(std::uint64_t most_bytes, std::uint64_t most_picoseconds = kAnyTime)
      : bytes(most_bytes), picoseconds(most_picoseconds) {}

  std::uint64_t bytes;
  std::uint64_t picoseconds;
};

using Items = std::vector<std::vector<Option>>;  ///< at least one option each
using Choice = std::vector<std::size_t>;         ///< index of the chosen option of each item

struct Solution {
  Choice choice;
  double cost = 0;
  std::uint64_t bytes = 0;
  std::uint64_t picoseconds = 0;
  double gap = 0;      ///< proven relative distance to the optimum (0 = proven optimal)
  double seconds = 0;  ///< time of the solve
};

struct SolveLimits {
  double seconds = 60;
  double relative_gap = 1e-6;          ///< at which HiGHS may stop
  std::size_t search_states = 20'000;  ///< width of the search that comes before HiGHS; 0 leaves it out
};

/// Drops options that another option of the same item beats in cost, bytes and picoseconds. Returns kept
/// indices, by bytes.
std::vector<std::vector<std::size_t>> undominated(const Items& items);

/// Exact minimum. The linear relaxation bounds every option from below; a dynamic program over the options
/// near its optimum nearly always finds and proves the optimum; where its states run out, HiGHS solves what
/// the bounds leave by branch and bound. A limit of time that binds is a second price in the relaxation and a
/// second row for HiGHS; the search is then left out, except where one of the limits does not bind. The
/// result never exceeds the capacity: both sums are checked in integers by code apart from the solvers.
/// Errors: impossible_budget says the smallest possible total (of bytes, else of time within the bytes);
/// bad_input for an item with no option, a cost that is not finite, or sizes or times that add up to 2^53 or
/// more. Deterministic unless limits.seconds is reached; then the best choice found so far comes with its
/// gap. Method: Sinha and Zoltners, "The multiple-choice knapsack problem" (1979); Pisinger (1995) for the
/// search; Lagrange's multiplier for the second limit.
Result<Solution> solve(const Items& items, Capacity capacity, const SolveLimits& limits = {});

/// The choice of least total time within budget_bytes, without regard to cost. Errors as of solve.
Result<Solution> fastest(const Items& items, std::uint64_t budget_bytes, const SolveLimits& limits = {});

/// The frontier: the optima at every budget where the convex hull of (bytes, cost) has a corner, from the
/// smallest possible total to that of the least cost. Bytes rise and costs fall strictly. At most most_points
/// (≥ 2) of them, evenly spread over the corners, both ends included. Time is not regarded. O(n log n) for n
/// options, and most_points · items of memory. Errors as of solve.
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
/// capacity, until neither lowers it (beyond float's rounding). Never worse than `start`. Solution::gap is
/// not proven and left 0. One sweep costs (options of all items)² · samples / 2 multiplications. bad_input
/// where `start` is over capacity or the shapes do not match.
Result<Solution> refine(const Items& items, const Projections& projections, Capacity capacity, Choice start);

}  // namespace optiq::allocate
