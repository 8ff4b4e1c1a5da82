#include <algorithm>
#include <numeric>
#include <tuple>

#include "relaxation.h"

namespace optiq::allocate {

std::vector<std::vector<std::size_t>> undominated(const Items& items) {
  std::vector<std::vector<std::size_t>> kept(items.size());
  for (std::size_t item = 0; item < items.size(); ++item) {
    const auto& options = items[item];
    std::vector<std::size_t> order(options.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      const auto key = [](const Option& option) {
        return std::tuple(option.bytes, option.picoseconds, option.cost);
      };
      return key(options[a]) < key(options[b]);
    });
    for (const std::size_t option : order) {
      const bool beaten = std::any_of(kept[item].rbegin(), kept[item].rend(), [&](std::size_t other) {
        return options[other].picoseconds <= options[option].picoseconds &&
               options[other].cost <= options[option].cost;
      });
      if (!beaten) kept[item].push_back(option);
    }
  }
  return kept;
}

Result<std::vector<Solution>> frontier(const Items& items, std::size_t most_points) {
  OPTIQ_CHECK(check_items(items));
  const std::vector<Step> steps = hull_steps(at_time_price(items, 0));
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
