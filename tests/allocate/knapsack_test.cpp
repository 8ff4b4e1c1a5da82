#include "optiq/allocate/knapsack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>

#include "support/knapsack.h"

namespace optiq::allocate {
namespace {

std::uint64_t bytes_of(const Items& items, const Choice& choice) {
  std::uint64_t sum = 0;
  for (std::size_t t = 0; t < items.size(); ++t) sum += items[t].at(choice[t]).bytes;
  return sum;
}

double cost_of(const Items& items, const Choice& choice) {
  double sum = 0;
  for (std::size_t t = 0; t < items.size(); ++t) sum += items[t].at(choice[t]).cost;
  return sum;
}

/// The least cost within the budget by trying everything; nullopt where nothing fits.
std::optional<double> brute_force(const Items& items, std::uint64_t budget) {
  std::optional<double> best;
  test::for_each_choice(items, [&](const Choice& choice) {
    if (bytes_of(items, choice) > budget) return;
    const double cost = cost_of(items, choice);
    if (!best || cost < *best) best = cost;
  });
  return best;
}

/// The least cost within the budget by dynamic programming over bytes.
double dynamic_program(const Items& items, std::uint64_t budget) {
  constexpr double kNone = std::numeric_limits<double>::infinity();
  std::vector<double> least(budget + 1, 0);
  for (const auto& options : items) {
    std::vector<double> next(budget + 1, kNone);
    for (const Option& option : options) {
      for (std::uint64_t used = option.bytes; used <= budget; ++used)
        next[used] = std::min(next[used], least[used - option.bytes] + option.cost);
    }
    least = std::move(next);
  }
  return least[budget];
}

/// What must hold of any solution, and that it costs `expected`.
void expect_optimal(const Items& items, std::uint64_t budget, const Solution& solution, double expected) {
  ASSERT_EQ(solution.choice.size(), items.size());
  EXPECT_EQ(solution.bytes, bytes_of(items, solution.choice));
  EXPECT_LE(solution.bytes, budget);
  EXPECT_NEAR(solution.cost, cost_of(items, solution.choice), 1e-12 * (1 + std::fabs(solution.cost)));
  EXPECT_NEAR(solution.cost, expected, 2e-6 * std::fabs(expected) + 1e-9);
  EXPECT_LE(solution.gap, 2e-6);
}

/// HiGHS alone, without the search that comes before it.
constexpr SolveLimits kHighsOnly{.seconds = 10, .relative_gap = 1e-6, .search_states = 0};
/// A search so narrow that it drops states.
constexpr SolveLimits kNarrow{.seconds = 10, .relative_gap = 1e-6, .search_states = 2};

class SolveBy : public testing::TestWithParam<SolveLimits> {};

TEST_P(SolveBy, MatchesBruteForceOnSmallInstances) {
  Random random(1);
  int feasible = 0;
  for (int round = 0; round < 600; ++round) {
    const std::uint64_t largest = round % 3 == 0 ? 6 : 1000;  // 6: many equal-byte ties
    const Items items = test::random_items(random, 1 + random.below(6), 5, largest);
    const std::uint64_t budget = random.below(items.size() * largest + 1);
    const auto expected = brute_force(items, budget);
    const auto solution = solve(items, budget, GetParam());
    ASSERT_EQ(solution.has_value(), expected.has_value()) << round;
    if (!expected) {
      EXPECT_EQ(solution.error().code, ErrorCode::impossible_budget);
      continue;
    }
    ++feasible;
    expect_optimal(items, budget, *solution, *expected);
  }
  EXPECT_GT(feasible, 300);
}

TEST_P(SolveBy, MatchesADynamicProgramOnLargerInstances) {
  Random random(2);
  for (int round = 0; round < 25; ++round) {
    const Items items = test::random_items(random, 60, 12, 200);
    std::uint64_t smallest = 0;
    for (const auto& options : items) {
      smallest += std::min_element(options.begin(), options.end(), [](auto& a, auto& b) {
                    return a.bytes < b.bytes;
                  })->bytes;
    }
    const std::uint64_t budget = smallest + random.below(3000);
    const auto solution = solve(items, budget, GetParam());
    ASSERT_TRUE(solution) << solution.error().message;
    expect_optimal(items, budget, *solution, dynamic_program(items, budget));
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, SolveBy, testing::Values(SolveLimits{}, kHighsOnly, kNarrow));

/// One byte decides: every byte value is near 10^11 (100 GB a tensor), where 1e-6 of the total is 100 kB.
TEST(Solve, NeverExceedsTheBudgetByOneByteWhereBytesAreHuge) {
  Random random(3);
  for (int round = 0; round < 200; ++round) {
    Items items = test::random_items(random, 6, 4, 3);
    for (auto& options : items) {
      for (auto& option : options) option.bytes += 100'000'000'000 + random.below(3) * 7'654'321'987;
    }
    const Choice some = [&] {
      Choice choice;
      for (const auto& options : items) choice.push_back(random.below(options.size()));
      return choice;
    }();
    for (const std::uint64_t budget : {bytes_of(items, some), bytes_of(items, some) - 1}) {
      const auto expected = brute_force(items, budget);
      const auto solution = solve(items, budget);
      ASSERT_EQ(solution.has_value(), expected.has_value());
      if (!expected) continue;
      expect_optimal(items, budget, *solution, *expected);
      // HiGHS alone cannot tell one byte in 10^11; it must still keep the budget and own up to its gap.
      const auto by_highs = solve(items, budget, kHighsOnly);
      ASSERT_TRUE(by_highs);
      EXPECT_LE(bytes_of(items, by_highs->choice), budget);
      EXPECT_LE(by_highs->cost - *expected, (by_highs->gap + 2e-6) * std::fabs(by_highs->cost) + 1e-9);
    }
  }
}

TEST(Solve, TinyAndHugeCostsDoNotDrownInTolerances) {
  Random random(4);
  for (const double scale : {1e-12, 1e-6, 1e9}) {
    for (int round = 0; round < 40; ++round) {
      Items items = test::random_items(random, 6, 4, 50);
      for (auto& options : items)
        for (auto& option : options) option.cost *= scale;
      const std::uint64_t budget = 60 + random.below(150);
      const auto expected = brute_force(items, budget);
      const auto solution = solve(items, budget);
      ASSERT_EQ(solution.has_value(), expected.has_value());
      if (expected) {
        EXPECT_NEAR(solution->cost, *expected, 2e-6 * std::fabs(*expected) + 1e-9 * scale);
      }
    }
  }
}

TEST(Solve, ReportsTheGapWhereTimeRunsOut) {
  Random random(10);
  const Items items = test::realistic_items(random, 300, 18);
  const auto ends = frontier(items, 2).value();
  const std::uint64_t budget = (ends.front().bytes + ends.back().bytes) / 2;
  const auto rushed = solve(items, budget, {.seconds = 0.01, .relative_gap = 0, .search_states = 0});
  const auto optimal = solve(items, budget);
  ASSERT_TRUE(rushed && optimal);
  EXPECT_GT(rushed->gap, 0);
  EXPECT_EQ(optimal->gap, 0);
  EXPECT_GE(rushed->cost, optimal->cost);
  EXPECT_LE(rushed->cost - optimal->cost, rushed->gap * rushed->cost * (1 + 1e-9));
}

TEST(Solve, IsDeterministic) {
  Random random(5);
  const Items items = test::realistic_items(random, 100, 18);
  const auto first = solve(items, 400'000'000);
  const auto second = solve(items, 400'000'000);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->choice, second->choice);
}

TEST(Solve, RefusesWhatIsNoProgram) {
  EXPECT_EQ(solve({{}}, 10).error().message, "item 0 has no options");
  EXPECT_EQ(solve({{{std::numeric_limits<double>::quiet_NaN(), 1}}}, 10).error().code, ErrorCode::bad_input);
  EXPECT_EQ(solve({{{0, 1}}, {{0, UINT64_MAX}}}, 10).error().code, ErrorCode::bad_input);
  EXPECT_EQ(solve({{{0, 7}, {0, 5}}, {{0, 6}}}, 10).error().message,
            "10 bytes are not enough: the smallest possible total is 11 bytes");
}

TEST(Solve, NothingToChoose) {
  const auto solution = solve({}, 0);
  ASSERT_TRUE(solution);
  EXPECT_TRUE(solution->choice.empty());
  EXPECT_EQ(solution->gap, 0);
}

TEST(Undominated, KeepsExactlyTheOptionsNoOtherBeats) {
  Random random(6);
  for (int round = 0; round < 300; ++round) {
    const Items items = test::random_items(random, 1, 12, 8);
    const auto& options = items[0];
    const auto kept = undominated(items)[0];
    for (std::size_t i = 1; i < kept.size(); ++i) {
      EXPECT_LT(options[kept[i - 1]].bytes, options[kept[i]].bytes);
      EXPECT_GT(options[kept[i - 1]].cost, options[kept[i]].cost);
    }
    for (const Option& option : options) {
      EXPECT_TRUE(std::any_of(kept.begin(), kept.end(), [&](std::size_t k) {
        return options[k].bytes <= option.bytes && options[k].cost <= option.cost;
      }));
    }
  }
}

TEST(Frontier, EveryPointIsTheOptimumOfItsBudget) {
  Random random(7);
  for (int round = 0; round < 100; ++round) {
    const Items items = test::random_items(random, 5, 5, 100);
    const auto points = frontier(items);
    ASSERT_TRUE(points);
    for (std::size_t i = 0; i < points->size(); ++i) {
      const Solution& point = (*points)[i];
      EXPECT_EQ(point.bytes, bytes_of(items, point.choice));
      EXPECT_NEAR(point.cost, brute_force(items, point.bytes).value(), 1e-9);
      if (i == 0) continue;
      EXPECT_GT(point.bytes, (*points)[i - 1].bytes);
      EXPECT_LT(point.cost, (*points)[i - 1].cost);
    }
    EXPECT_FALSE(brute_force(items, points->front().bytes - 1)) << "a smaller total exists";
    EXPECT_NEAR(points->back().cost, brute_force(items, UINT64_MAX).value(), 1e-9);
  }
}

TEST(Frontier, ThinsOutToTheNumberAskedForAndKeepsBothEnds) {
  Random random(8);
  const Items items = test::realistic_items(random, 200, 18);
  const auto all = frontier(items, 1'000'000).value();
  const auto few = frontier(items, 20).value();
  ASSERT_GT(all.size(), 1000u);
  EXPECT_EQ(few.size(), 20u);
  EXPECT_EQ(few.front().choice, all.front().choice);
  EXPECT_EQ(few.back().choice, all.back().choice);
}

/// docs/adr/0004-exact-allocation.md quotes the times; the limits here are generous.
TEST(Solve, ClosesTheGapOfRealisticProgramsInSeconds) {
  Random random(9);
  for (const auto& [count, options, limit_seconds] :
       {std::tuple{std::size_t{224}, std::size_t{18}, 5.0}, {std::size_t{2000}, std::size_t{30}, 20.0}}) {
    const Items items = test::realistic_items(random, count, options);
    const auto ends = frontier(items, 2).value();
    double slowest = 0;
    for (const double fraction : {0.1, 0.3, 0.5, 0.8}) {
      const auto span = static_cast<double>(ends.back().bytes - ends.front().bytes);
      const std::uint64_t budget = ends.front().bytes + static_cast<std::uint64_t>(fraction * span) + 12345;
      const auto solution = solve(items, budget);
      ASSERT_TRUE(solution);
      EXPECT_LE(solution->bytes, budget);
      EXPECT_EQ(solution->gap, 0);
      slowest = std::max(slowest, solution->seconds);
    }
    EXPECT_LT(slowest, limit_seconds);
    RecordProperty(fmt::format("seconds_{}x{}", count, options), fmt::format("{:.3f}", slowest));
  }
}

}  // namespace
}  // namespace optiq::allocate
