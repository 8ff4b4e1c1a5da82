#include <gtest/gtest.h>

#include <cmath>

#include "optiq/allocate/knapsack.h"
#include "support/knapsack.h"

namespace optiq::allocate {
namespace {

struct Instance {
  Items items;
  Projections projections;
  std::uint64_t budget = 0;
  Choice start;
};

std::uint64_t bytes_of(const Items& items, const Choice& choice) {
  std::uint64_t sum = 0;
  for (std::size_t t = 0; t < items.size(); ++t) sum += items[t].at(choice[t]).bytes;
  return sum;
}

/// The model's definition, sample by sample.
double model_cost(const Projections& projections, const Choice& choice) {
  double mean = 0;
  for (std::size_t s = 0; s < projections.samples; ++s) {
    double sum = 0;
    for (std::size_t t = 0; t < choice.size(); ++t)
      sum += static_cast<double>(projections.values.at(t).at(choice[t]).at(s));
    mean += sum * sum / static_cast<double>(projections.samples);
  }
  return projections.scale * mean;
}

/// Larger options have smaller projections; one shared direction makes modules interact.
Instance random_instance(Random& random, std::size_t count, std::size_t options, std::size_t samples) {
  Instance instance;
  instance.projections.samples = samples;
  instance.projections.scale = 0.5 / 64;
  std::vector<double> shared(samples);
  for (double& value : shared) value = random.normal();
  for (std::size_t t = 0; t < count; ++t) {
    auto& values = instance.projections.values.emplace_back();
    auto& item = instance.items.emplace_back();
    for (std::size_t o = 0; o < options; ++o) {
      const double size = std::pow(0.5, static_cast<double>(o));
      item.push_back({size * size, 10 + o * (3 + random.below(4))});
      auto& row = values.emplace_back();
      const double sign = random.below(2) == 0 ? 1 : -1;
      for (std::size_t s = 0; s < samples; ++s)
        row.push_back(static_cast<float>(size * (random.normal() + sign * shared[s])));
    }
    instance.start.push_back(random.below(options));
  }
  instance.budget = bytes_of(instance.items, instance.start) + random.below(5);
  return instance;
}

/// The least model cost that any one change, or any two, within the budget can reach.
double best_neighbour(const Instance& instance, const Choice& choice) {
  double best = model_cost(instance.projections, choice);
  for (std::size_t a = 0; a < choice.size(); ++a) {
    for (std::size_t b = a; b < choice.size(); ++b) {
      for (std::size_t x = 0; x < instance.items[a].size(); ++x) {
        for (std::size_t y = 0; y < instance.items[b].size(); ++y) {
          Choice changed = choice;
          changed[a] = x;
          changed[b] = y;
          if (bytes_of(instance.items, changed) <= instance.budget)
            best = std::min(best, model_cost(instance.projections, changed));
        }
      }
    }
  }
  return best;
}

TEST(InteractionCost, IsTheMeanSquareOfTheSum) {
  Random random(1);
  // 13 and 48: with and without a rest after the vector lanes.
  for (const std::size_t samples : {1u, 13u, 48u}) {
    const Instance instance = random_instance(random, 7, 4, samples);
    const double expected = model_cost(instance.projections, instance.start);
    EXPECT_NEAR(interaction_cost(instance.projections, instance.start), expected, 1e-12 * expected);
  }
  EXPECT_EQ(interaction_cost({}, {}), 0);
}

TEST(Refine, ReachesALocalOptimumAndIsNeverWorse) {
  Random random(2);
  int improved = 0;
  for (int round = 0; round < 60; ++round) {
    const Instance instance = random_instance(random, 7, 4, 16 + random.below(40));
    const double before = model_cost(instance.projections, instance.start);
    const auto result = refine(instance.items, instance.projections, instance.budget, instance.start);
    ASSERT_TRUE(result) << result.error().message;
    const double after = model_cost(instance.projections, result->choice);
    EXPECT_LE(bytes_of(instance.items, result->choice), instance.budget);
    EXPECT_EQ(result->bytes, bytes_of(instance.items, result->choice));
    EXPECT_NEAR(result->cost, after, 1e-12 * after);
    EXPECT_LE(after, before);
    // Gains below 1e-6 are not taken, and float sums of 56 products err by some 1e-6 of the terms.
    EXPECT_GE(best_neighbour(instance, result->choice), after * (1 - 1e-4));
    improved += after < before * 0.99 ? 1 : 0;
  }
  EXPECT_GT(improved, 50);
}

/// Only an exchange helps: any single change is over budget or worse.
TEST(Refine, FindsExchangesThatNoSingleChangeReaches) {
  const Items items{{{0, 1}, {0, 2}}, {{0, 1}, {0, 2}}};
  const Projections projections{.samples = 2, .scale = 1, .values = {{{4, 0}, {0, 0}}, {{0, 3}, {0, 0}}}};
  const auto result = refine(items, projections, 3, {0, 1});
  ASSERT_TRUE(result);
  EXPECT_EQ(result->choice, (Choice{1, 0}));
  EXPECT_DOUBLE_EQ(result->cost, 4.5);
}

/// The same exchange, where it would take too long.
TEST(Refine, KeepsTheLimitOfTime) {
  const Items items{{{0, 1, 5}, {0, 2, 9}}, {{0, 1, 5}, {0, 2, 8}}};
  const Projections projections{.samples = 2, .scale = 1, .values = {{{4, 0}, {0, 0}}, {{0, 3}, {0, 0}}}};
  EXPECT_EQ(refine(items, projections, {3, 13}, {0, 1})->choice, (Choice{0, 1}));
  EXPECT_EQ(refine(items, projections, {3, 14}, {0, 1})->choice, (Choice{1, 0}));
  EXPECT_EQ(refine(items, projections, {3, 12}, {0, 1}).error().code, ErrorCode::bad_input);
}

TEST(Refine, RefusesWhatDoesNotFitTogether) {
  Random random(3);
  const Instance good = random_instance(random, 3, 2, 4);
  EXPECT_EQ(refine(good.items, good.projections, 1, good.start).error().code, ErrorCode::bad_input);
  EXPECT_FALSE(refine(good.items, good.projections, 1000, {0, 0}));
  EXPECT_FALSE(refine(good.items, good.projections, 1000, {0, 0, 2}));
  Instance bad = good;
  bad.projections.values[1][1].pop_back();
  EXPECT_EQ(refine(bad.items, bad.projections, 1000, bad.start).error().message,
            "item 1: expected 2 options of 4 projections each");
}

}  // namespace
}  // namespace optiq::allocate
