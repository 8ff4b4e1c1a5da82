// Random knapsack instances for the tests of allocate and plan.
#pragma once

#include <cmath>

#include "optiq/allocate/knapsack.h"
#include "optiq/base/random.h"

namespace optiq::test {

/// Items whose options cost and weigh anything: ties, dominated options and negative costs included.
inline allocate::Items random_items(Random& random, std::size_t count, std::size_t most_options,
                                    std::uint64_t largest_bytes) {
  allocate::Items items(count);
  for (auto& options : items) {
    options.resize(1 + random.below(most_options));
    for (auto& option : options) {
      option.bytes = random.below(largest_bytes + 1);
      option.cost = random.below(4) == 0 ? static_cast<double>(random.below(5)) - 1 : random.normal();
    }
  }
  return items;
}

/// Items as modules of a model have them: bytes of `options` formats of matrices of a few shapes, times that
/// depend on shape and format but not on bytes alone (odd widths unpack slowly), costs that fall fourfold a
/// bit with sensitivities over three orders of magnitude and noise on each.
inline allocate::Items realistic_items(Random& random, std::size_t count, std::size_t options) {
  constexpr double kBits[] = {2, 3, 4, 5, 6, 8};
  constexpr double kPicosecondsAByte[] = {60, 65, 35, 50, 45, 32};
  constexpr std::uint64_t kElements[] = {576 * 192, 576 * 576, 576 * 1536, 2048 * 8192};
  allocate::Items items(count);
  for (auto& item : items) {
    const std::uint64_t elements = kElements[random.below(4)];
    const double sensitivity =
        std::exp(random.uniform(-9, -2)) * std::sqrt(static_cast<double>(elements)) / 1e3;
    for (std::size_t i = 0; i < options; ++i) {
      const double bits = kBits[i % 6] + static_cast<double>(i / 18) / 4;
      const auto group = static_cast<double>(std::uint64_t{32} << (i / 6 % 3));
      const auto bytes = static_cast<double>(elements) * (bits / 8 + 4 / group);
      const double noise = std::exp(0.1 * random.normal());
      item.push_back({sensitivity * std::pow(4.0, -bits) * std::pow(group / 32, 0.3) * noise,
                      static_cast<std::uint64_t>(bytes),
                      2'000'000 + static_cast<std::uint64_t>(bytes * kPicosecondsAByte[i % 6])});
    }
  }
  return items;
}

/// Calls visit(choice) for every combination of options.
template <class Visit>
void for_each_choice(const allocate::Items& items, const Visit& visit) {
  allocate::Choice choice(items.size(), 0);
  for (;;) {
    visit(choice);
    std::size_t item = 0;
    while (item < items.size() && ++choice[item] == items[item].size()) choice[item++] = 0;
    if (item == items.size()) return;
  }
}

}  // namespace optiq::test
