#include <algorithm>
#include <numeric>

#include "relaxation.h"

namespace optiq::allocate {

std::vector<std::vector<std::size_t>> undominated(const Items& items) {
  std::vector<std::vector<std::size_t>> kept(items.size());
  for (std::size_t item = 0; item < items.size(); ++item) {
    const auto& options = items[item];
    std::vector<std::size_t> order(options.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return options[a].bytes != options[b].bytes ? options[a].bytes < options[b].bytes
                                                  : options[a].cost < options[b].cost;
    });
    for (const std::size_t option : order) {
      if (kept[item].empty() || options[option].cost < options[kept[item].back()].cost)
        kept[item].push_back(option);
    }
  }
  return kept;
}

Result<std::vector<Solution>> frontier(const Items& items, std::size_t most_points) {
  OPTIQ_CHECK(check_items(items));
  const std::vector<Step> steps = hull_steps(items);
  const std::size_t points =
      std::clamp<std::size_t>(steps.size() + 1, 1, std::max<std::size_t>(most_points, 2));
  Choice choice = smallest_choice(items);
  std::vector<Solution> solutions{total(items, choice)};
  std::size_t taken = 0;
  for (std::size_t point = 1; point < points; ++point) {
    const std::size_t until = point * steps.size() / (points - 1);
    for (; taken < until; ++taken) choice[steps[taken].item] = steps[taken].to;
    solutions.push_back(total(items, choice));
  }
  return solutions;
}

}  // namespace optiq::allocate
