#include "relaxation.h"

#include <algorithm>
#include <cmath>

namespace optiq::allocate {
namespace {

constexpr std::uint64_t kLargestTotal = 1ull << 53;  // integers up to here are exact as doubles

double slope_between(const Option& small, const Option& large) {
  return (small.cost - large.cost) / static_cast<double>(large.bytes - small.bytes);
}

/// Of options in rising bytes and falling cost, those on the lower convex hull.
std::vector<std::size_t> convex_hull(const std::vector<Option>& options,
                                     const std::vector<std::size_t>& kept) {
  std::vector<std::size_t> hull;
  for (const std::size_t next : kept) {
    while (hull.size() >= 2) {
      const Option& before = options[hull[hull.size() - 2]];
      const Option& last = options[hull.back()];
      if (slope_between(before, last) > slope_between(last, options[next])) break;
      hull.pop_back();
    }
    hull.push_back(next);
  }
  return hull;
}

/// Takes any cheaper option that still fits, best saving first within an item, items in order.
void fill_up(const Items& items, std::uint64_t slack, Choice& choice) {
  for (std::size_t item = 0; item < items.size(); ++item) {
    const Option current = items[item][choice[item]];
    for (std::size_t option = 0; option < items[item].size(); ++option) {
      const Option& candidate = items[item][option];
      const bool fits = candidate.bytes <= current.bytes + slack;
      if (fits && candidate.cost < items[item][choice[item]].cost) choice[item] = option;
    }
    slack = slack + current.bytes - items[item][choice[item]].bytes;
  }
}

/// Adds the item's largest; false where that makes the sum too large.
bool add_largest(const std::vector<Option>& options, std::uint64_t Option::*member, std::uint64_t& sum) {
  std::uint64_t largest = 0;
  for (const Option& option : options) largest = std::max(largest, option.*member);
  if (largest >= kLargestTotal - sum) return false;
  sum += largest;
  return true;
}

}  // namespace

Status check_items(const Items& items) {
  std::uint64_t largest_bytes = 0;
  std::uint64_t largest_time = 0;
  for (std::size_t item = 0; item < items.size(); ++item) {
    if (items[item].empty()) return fail(ErrorCode::bad_input, "item {} has no options", item);
    for (const Option& option : items[item]) {
      if (!std::isfinite(option.cost))
        return fail(ErrorCode::bad_input, "item {} has an option of cost {}", item, option.cost);
    }
    if (!add_largest(items[item], &Option::bytes, largest_bytes))
      return fail(ErrorCode::bad_input, "the items add up to 2^53 bytes or more at item {}", item);
    if (!add_largest(items[item], &Option::picoseconds, largest_time))
      return fail(ErrorCode::bad_input, "the items add up to 2^53 picoseconds or more at item {}", item);
  }
  return {};
}

Choice smallest_choice(const Items& items) {
  Choice choice;
  choice.reserve(items.size());
  for (const auto& options : items) {
    const auto smaller = [](const Option& a, const Option& b) {
      return a.bytes != b.bytes ? a.bytes < b.bytes : a.cost < b.cost;
    };
    choice.push_back(static_cast<std::size_t>(std::min_element(options.begin(), options.end(), smaller) -
                                              options.begin()));
  }
  return choice;
}

Solution total(const Items& items, Choice choice) {
  Solution solution;
  for (std::size_t item = 0; item < items.size(); ++item) {
    solution.bytes += items[item][choice[item]].bytes;
    solution.picoseconds += items[item][choice[item]].picoseconds;
    solution.cost += items[item][choice[item]].cost;
  }
  solution.choice = std::move(choice);
  return solution;
}

Items at_time_price(const Items& items, double time_price) {
  Items priced = items;
  for (auto& options : priced) {
    for (Option& option : options) {
      option.cost += time_price * static_cast<double>(option.picoseconds);
      option.picoseconds = 0;
    }
  }
  return priced;
}

std::vector<Step> hull_steps(const Items& items) {
  const auto kept = undominated(items);
  std::vector<Step> steps;
  for (std::size_t item = 0; item < items.size(); ++item) {
    const auto hull = convex_hull(items[item], kept[item]);
    for (std::size_t i = 1; i < hull.size(); ++i) {
      const Option& from = items[item][hull[i - 1]];
      const Option& to = items[item][hull[i]];
      steps.push_back({item, hull[i - 1], hull[i], to.bytes - from.bytes, from.cost - to.cost});
    }
  }
  std::stable_sort(steps.begin(), steps.end(),
                   [](const Step& a, const Step& b) { return a.slope() > b.slope(); });
  return steps;
}

Relaxation relax(const Items& items, std::uint64_t budget_bytes) {
  Solution greedy = total(items, smallest_choice(items));
  Relaxation result;
  result.lower_bound = greedy.cost;
  std::uint64_t slack = budget_bytes - greedy.bytes;
  for (const Step& step : hull_steps(items)) {
    if (step.bytes > slack) {
      result.price = step.slope();
      result.lower_bound -= step.slope() * static_cast<double>(slack);
      break;
    }
    slack -= step.bytes;
    result.lower_bound -= step.saving;
    greedy.choice[step.item] = step.to;
  }
  fill_up(items, slack, greedy.choice);
  result.incumbent = std::move(greedy.choice);
  return result;
}

}  // namespace optiq::allocate
