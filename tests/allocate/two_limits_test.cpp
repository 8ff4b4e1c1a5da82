#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "optiq/allocate/knapsack.h"
#include "support/contains.h"
#include "support/knapsack.h"

namespace optiq::allocate {
namespace {

struct Totals {
  double cost = 0;
  std::uint64_t bytes = 0;
  std::uint64_t picoseconds = 0;
};

Totals totals_of(const Items& items, const Choice& choice) {
  Totals sum;
  for (std::size_t t = 0; t < items.size(); ++t) {
    const Option& option = items[t].at(choice[t]);
    sum.cost += option.cost;
    sum.bytes += option.bytes;
    sum.picoseconds += option.picoseconds;
  }
  return sum;
}

bool within(const Totals& totals, Capacity capacity) {
  return totals.bytes <= capacity.bytes && totals.picoseconds <= capacity.picoseconds;
}

Items random_timed_items(Random& random, std::size_t count, std::size_t most_options, std::uint64_t largest) {
  Items items = test::random_items(random, count, most_options, largest);
  for (auto& options : items)
    for (Option& option : options) option.picoseconds = random.below(largest + 1);
  return items;
}

/// What trying everything finds: the least cost within both limits, and the least time within the bytes.
struct Everything {
  std::optional<double> least_cost;
  std::optional<std::uint64_t> least_time;
};

Everything try_everything(const Items& items, Capacity capacity) {
  Everything found;
  test::for_each_choice(items, [&](const Choice& choice) {
    const Totals totals = totals_of(items, choice);
    if (totals.bytes > capacity.bytes) return;
    found.least_time = std::min(found.least_time.value_or(UINT64_MAX), totals.picoseconds);
    if (!within(totals, capacity)) return;
    found.least_cost =
        std::min(found.least_cost.value_or(std::numeric_limits<double>::infinity()), totals.cost);
  });
  return found;
}

/// The least cost by dynamic programming over both amounts.
double dynamic_program(const Items& items, Capacity capacity) {
  constexpr double kNone = std::numeric_limits<double>::infinity();
  const std::size_t columns = capacity.picoseconds + 1;
  std::vector<double> least((capacity.bytes + 1) * columns, 0);
  for (const auto& options : items) {
    std::vector<double> next(least.size(), kNone);
    for (const Option& option : options) {
      for (std::uint64_t b = option.bytes; b <= capacity.bytes; ++b) {
        for (std::uint64_t p = option.picoseconds; p <= capacity.picoseconds; ++p) {
          double& cell = next[b * columns + p];
          cell = std::min(cell, least[(b - option.bytes) * columns + p - option.picoseconds] + option.cost);
        }
      }
    }
    least = std::move(next);
  }
  return least.back();
}

void expect_optimal(const Items& items, Capacity capacity, const Solution& solution, double expected) {
  ASSERT_EQ(solution.choice.size(), items.size());
  const Totals totals = totals_of(items, solution.choice);
  EXPECT_EQ(solution.bytes, totals.bytes);
  EXPECT_EQ(solution.picoseconds, totals.picoseconds);
  EXPECT_TRUE(within(totals, capacity));
  EXPECT_NEAR(solution.cost, totals.cost, 1e-12 * (1 + std::fabs(solution.cost)));
  EXPECT_NEAR(solution.cost, expected, 2e-6 * std::fabs(expected) + 1e-9);
  // The gap is relative, which means little where the cost is 0.
  EXPECT_LE(solution.gap * std::fabs(solution.cost), 2e-6 * std::fabs(expected) + 1e-9);
}

TEST(SolveBoth, MatchesBruteForceOnSmallInstances) {
  Random random(1);
  int feasible = 0;
  int both_bind = 0;
  for (int round = 0; round < 500; ++round) {
    const std::uint64_t largest = round % 3 == 0 ? 6 : 1000;  // 6: many ties
    const Items items = random_timed_items(random, 1 + random.below(6), 5, largest);
    Choice some;
    for (const auto& options : items) some.push_back(random.below(options.size()));
    const Totals totals = totals_of(items, some);
    const std::uint64_t around = random.below(largest / 2);
    const Capacity capacity(totals.bytes - std::min(totals.bytes, around), totals.picoseconds + around / 4);
    const Everything expected = try_everything(items, capacity);
    const auto solution = solve(items, capacity);
    ASSERT_EQ(solution.has_value(), expected.least_cost.has_value()) << round;
    if (!solution) {
      EXPECT_EQ(solution.error().code, ErrorCode::impossible_budget);
      continue;
    }
    ++feasible;
    expect_optimal(items, capacity, *solution, *expected.least_cost);
    const auto more_bytes = solve(items, {Capacity::kAnyTime, capacity.picoseconds});
    const auto more_time = solve(items, capacity.bytes);
    ASSERT_TRUE(more_bytes && more_time);
    EXPECT_LE(more_bytes->cost, solution->cost + 1e-6);
    EXPECT_LE(more_time->cost, solution->cost + 1e-6);
    both_bind += more_bytes->cost < solution->cost - 1e-3 && more_time->cost < solution->cost - 1e-3 ? 1 : 0;
  }
  EXPECT_GT(feasible, 200);
  EXPECT_GT(both_bind, 50);
}

TEST(SolveBoth, MatchesADynamicProgramOnLargerInstances) {
  Random random(2);
  for (int round = 0; round < 8; ++round) {
    const Items items = random_timed_items(random, 30, 8, 20);
    const std::uint64_t least = fastest(items, Capacity::kAnyTime)->picoseconds;
    const Capacity capacity(100 + random.below(150), least + 30 + random.below(100));
    const double expected = dynamic_program(items, capacity);
    const auto solution = solve(items, capacity);
    ASSERT_EQ(solution.has_value(), std::isfinite(expected));
    if (solution) expect_optimal(items, capacity, *solution, expected);
  }
}

TEST(SolveBoth, SaysTheLeastTimeWithinTheBytes) {
  Random random(3);
  int impossible = 0;
  for (int round = 0; round < 200; ++round) {
    const Items items = random_timed_items(random, 5, 4, 100);
    const std::uint64_t bytes = 100 + random.below(250);
    const Everything found = try_everything(items, bytes);
    if (!found.least_time || *found.least_time == 0) continue;
    ++impossible;
    EXPECT_EQ(fastest(items, bytes)->picoseconds, *found.least_time);
    EXPECT_TRUE(solve(items, {bytes, *found.least_time}));
    const auto refused = solve(items, {bytes, *found.least_time - 1});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::impossible_budget);
    EXPECT_TRUE(test::contains(refused.error().message,
                               fmt::format("within {} bytes is {} picoseconds", bytes, *found.least_time)));
  }
  EXPECT_GT(impossible, 100);
  EXPECT_EQ(solve({{{0, 1, UINT64_MAX}}}, 10).error().code, ErrorCode::bad_input);
}

TEST(SolveBoth, ALimitThatDoesNotBindChangesNothing) {
  Random random(4);
  const Items items = test::realistic_items(random, 100, 18);
  const auto ends = frontier(items, 2).value();
  const std::uint64_t bytes = (ends.front().bytes + ends.back().bytes) / 2;
  const Solution free = solve(items, bytes).value();
  for (const std::uint64_t picoseconds : {free.picoseconds, free.picoseconds + 1, Capacity::kAnyTime}) {
    const Solution limited = solve(items, {bytes, picoseconds}).value();
    EXPECT_NEAR(limited.cost, free.cost, 2e-6 * free.cost);
    EXPECT_LE(limited.gap, 2e-6);
  }
  // The same program with bytes and time exchanged.
  Items exchanged = items;
  for (auto& options : exchanged)
    for (Option& option : options) std::swap(option.bytes, option.picoseconds);
  const Solution by_time = solve(exchanged, {std::uint64_t{1} << 52, bytes}).value();
  EXPECT_NEAR(by_time.cost, free.cost, 1e-9 * free.cost);
  EXPECT_EQ(by_time.gap, 0);
}

/// docs/adr/0005-latency.md quotes the times; the limits here are generous.
TEST(SolveBoth, ClosesTheGapOfRealisticProgramsAndIsMonotone) {
  Random random(5);
  const Items items = test::realistic_items(random, 224, 18);
  const auto ends = frontier(items, 2).value();
  const std::uint64_t bytes = ends.front().bytes + (ends.back().bytes - ends.front().bytes) * 3 / 10;
  const std::uint64_t least = fastest(items, bytes)->picoseconds;
  const std::uint64_t most = solve(items, bytes)->picoseconds;
  double before = std::numeric_limits<double>::infinity();
  double slowest = 0;
  for (const std::uint64_t percent : {0, 20, 60, 90, 100}) {
    const Capacity capacity(bytes, least + (most - least) * percent / 100);
    const auto solution = solve(items, capacity);
    ASSERT_TRUE(solution) << solution.error().message;
    EXPECT_TRUE(within(totals_of(items, solution->choice), capacity));
    EXPECT_LE(solution->gap, 2e-6);
    EXPECT_LE(solution->cost, before * (1 + 2e-6));
    before = solution->cost;
    slowest = std::max(slowest, solution->seconds);
  }
  EXPECT_LT(slowest, 30);
  RecordProperty("seconds_224x18", fmt::format("{:.3f}", slowest));
}

}  // namespace
}  // namespace optiq::allocate
