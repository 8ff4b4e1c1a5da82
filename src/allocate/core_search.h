// Dynamic programming around the relaxation's optimum: finds the optimum of nearly every real program, and
// proves it where its width suffices.
#pragma once

#include "relaxation.h"

namespace optiq::allocate {

struct CoreSearch {
  Choice choice;         ///< the best found; never worse than the relaxation's incumbent
  bool complete = true;  ///< nothing was dropped for width: `choice` is optimal
};

/// Let an option's priced cost be its cost + price · bytes, and its regret the priced cost above the least of
/// its item. Then any choice within the budget costs lower_bound + Σ regrets + price · unused bytes: only
/// choices of small regret matter, and they change few items. States are (bytes, Σ regrets) of the items
/// changed so far, kept where no other has fewer bytes and less cost and where they may still beat the best
/// known. At most `width` states, those of least regret.
/// Method: Pisinger, "A minimal algorithm for the multiple-choice knapsack problem" (1995).
CoreSearch search_core(const Items& items, const Relaxation& relaxation, std::uint64_t budget_bytes,
                       std::size_t width);

}  // namespace optiq::allocate
