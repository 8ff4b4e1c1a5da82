#include <algorithm>
#include <cmath>
#include <limits>

#include "relaxation.h"

namespace optiq::allocate {
namespace {

/// Each narrows the interval to 0.618 of itself: 1e-12 in all.
constexpr int kGoldenSteps = 58;
constexpr int kMostDoublings = 200;

/// The bound at prices of time, and the best that was met on the way.
class TimePrices {
 public:
  TimePrices(const Items& items, Capacity capacity, Choice feasible)
      : items_(items), capacity_(capacity), best_cost_(total(items, feasible).cost) {
    best_.incumbent = std::move(feasible);
    best_.lower_bound = -std::numeric_limits<double>::infinity();
  }

  /// The lower bound with time at this price; concave.
  double bound(double time_price) {
    Relaxation relaxed = relax(at_time_price(items_, time_price), capacity_.bytes);
    relaxed.lower_bound -= time_price * static_cast<double>(capacity_.picoseconds);
    const Solution greedy = total(items_, relaxed.incumbent);
    if (fits(greedy, capacity_) && greedy.cost < best_cost_) {
      best_cost_ = greedy.cost;
      best_.incumbent = std::move(relaxed.incumbent);
    }
    if (relaxed.lower_bound > best_.lower_bound) {
      best_.lower_bound = relaxed.lower_bound;
      best_.price = relaxed.price;
      best_.time_price = time_price;
    }
    return relaxed.lower_bound;
  }

  [[nodiscard]] Relaxation best() const { return best_; }

 private:
  const Items& items_;
  Capacity capacity_;
  Relaxation best_;
  double best_cost_;
};

/// A price of time that is small beside those that can matter: a millionth of all cost over all time.
double small_price(const Items& items) {
  double cost = 0;
  double time = 0;
  for (const auto& options : items) {
    const auto [cheapest, dearest] = std::minmax_element(
        options.begin(), options.end(), [](const Option& a, const Option& b) { return a.cost < b.cost; });
    const auto [least, most] =
        std::minmax_element(options.begin(), options.end(),
                            [](const Option& a, const Option& b) { return a.picoseconds < b.picoseconds; });
    cost += dearest->cost - cheapest->cost;
    time += static_cast<double>(most->picoseconds - least->picoseconds);
  }
  return time > 0 ? 1e-6 * cost / time : 0;
}

/// A price beyond that of the largest bound.
double bracket(TimePrices& prices, double start) {
  double price = start;
  double bound = prices.bound(price);
  for (int i = 0; i < kMostDoublings; ++i) {
    const double next = prices.bound(2 * price);
    price *= 2;
    if (next <= bound) break;
    bound = next;
  }
  return price;
}

void golden_section(TimePrices& prices, double low, double high) {
  const double ratio = (std::sqrt(5.0) - 1) / 2;
  double left = high - ratio * (high - low);
  double right = low + ratio * (high - low);
  double left_bound = prices.bound(left);
  double right_bound = prices.bound(right);
  for (int i = 0; i < kGoldenSteps; ++i) {
    if (left_bound >= right_bound) {
      high = right;
      right = left;
      right_bound = left_bound;
      left = high - ratio * (high - low);
      left_bound = prices.bound(left);
    } else {
      low = left;
      left = right;
      left_bound = right_bound;
      right = low + ratio * (high - low);
      right_bound = prices.bound(right);
    }
  }
}

}  // namespace

Relaxation relax(const Items& items, Capacity capacity, Choice feasible) {
  TimePrices prices(items, capacity, std::move(feasible));
  prices.bound(0);
  const double start = small_price(items);
  if (start > 0) golden_section(prices, 0, bracket(prices, start));
  return prices.best();
}

}  // namespace optiq::allocate
