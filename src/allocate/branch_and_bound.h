// HiGHS on what the relaxation's bounds leave: proves a gap where the search could not.
#pragma once

#include <chrono>

#include "relaxation.h"

namespace optiq::allocate {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Improves `best` by branch and bound over the options whose regret the best known leaves room for, until
/// limits.seconds after `start`. Returns the proven lower bound on cost.
double branch_and_bound(const Items& items, const Relaxation& relaxation, Capacity capacity,
                        const SolveLimits& limits, Clock::time_point start, Solution& best);

}  // namespace optiq::allocate
