#include "optiq/plan/planner.h"

#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "support/contains.h"
#include "support/seed.h"
#include "support/sensitivity.h"

namespace optiq::plan {
namespace {

using profile::Estimator;
using profile::Sensitivity;

/// Every assignment of measured formats, as pins, with its exact bytes and Σ cost.
template <class Visit>
void for_each_assignment(const Sensitivity& all, const Visit& visit) {
  std::vector<std::size_t> pick(all.modules.size(), 0);
  for (;;) {
    Plan plan;
    plan.model = all.model;
    plan.fixed = all.fixed;
    double cost = 0;
    for (std::size_t m = 0; m < pick.size(); ++m) {
      const auto& module = all.modules[m];
      PlannedModule& planned = plan.modules.emplace_back();
      planned.name = module.name;
      planned.out_features = module.out_features;
      planned.in_features = module.in_features;
      planned.format = module.options[pick[m]].format;
      cost += module.options[pick[m]].cost;
    }
    visit(exact_bytes(plan), cost);
    std::size_t m = 0;
    while (m < pick.size() && ++pick[m] == all.modules[m].options.size()) pick[m++] = 0;
    if (m == pick.size()) return;
  }
}

double sum_of_costs(const Plan& plan) {
  double sum = 0;
  for (const PlannedModule& module : plan.modules) sum += module.cost;
  return sum;
}

/// ½/T · mean_s (Σ projections)² from the definition.
double interaction_model(const Sensitivity& all, const Plan& plan) {
  double mean = 0;
  for (std::size_t s = 0; s < all.samples(); ++s) {
    double sum = 0;
    for (std::size_t m = 0; m < plan.modules.size(); ++m) {
      for (const auto& option : all.modules[m].options)
        if (option.format == plan.modules[m].format) sum += static_cast<double>(option.projections[s]);
    }
    mean += sum * sum / static_cast<double>(all.samples());
  }
  return all.projection_scale * mean;
}

TEST(MixedRecipe, GivesMoreBitsWhereMlxLmDoes) {
  Random random(5);
  const Sensitivity all = test::random_sensitivity(random, 17, Estimator::kl, {3, 6}, {64});
  const auto plan = mixed_recipe_plan(all, {{3, 64}, {6, 64}});
  ASSERT_TRUE(plan) << plan.error().message;
  // What mlx-lm 0.32.2's predicate answered for 17 layers.
  const std::set<std::int64_t> favoured{0, 1, 4, 7, 10, 13, 14, 15, 16};
  for (const PlannedModule& module : plan->modules) {
    const bool is_high = test::contains(module.name, "down_proj") && favoured.contains(module.layer);
    EXPECT_EQ(module.format, (quant::Format{is_high ? 6 : 3, 64})) << module.name;
  }
  EXPECT_EQ(plan->bytes, exact_bytes(*plan));
  EXPECT_FALSE(mixed_recipe_plan(all, {{4, 64}, {6, 64}}));
}

TEST(MakePlan, IsTheBestOfAllAssignmentsThatFit) {
  Random random(1);
  for (int round = 0; round < 4; ++round) {
    const Sensitivity all = test::random_sensitivity(random, 2, Estimator::kl, {2, 4, 8}, {32, 128});
    std::uint64_t smallest = UINT64_MAX;
    std::uint64_t largest = 0;
    for_each_assignment(all, [&](std::uint64_t bytes, double) {
      smallest = std::min(smallest, bytes);
      largest = std::max(largest, bytes);
    });
    const std::uint64_t budget = smallest + random.below(largest - smallest);
    double best = std::numeric_limits<double>::infinity();
    for_each_assignment(all, [&](std::uint64_t bytes, double cost) {
      if (bytes <= budget) best = std::min(best, cost);
    });
    const auto plan = make_plan(all, size_budget(budget));
    ASSERT_TRUE(plan) << plan.error().message;
    EXPECT_LE(plan->bytes, budget);
    EXPECT_NEAR(sum_of_costs(*plan), best, 1e-9 * best);
    EXPECT_EQ(plan->gap, 0);
    EXPECT_DOUBLE_EQ(plan->predicted_kl, sum_of_costs(*plan));
  }
}

TEST(MakePlan, NeverExceedsTheBudgetAndSaysTheSmallestPossible) {
  Random random(2);
  const Sensitivity all = test::random_sensitivity(random, 4);
  const auto ends = frontier_points(all, {}, 2).value();
  for (int round = 0; round < 60; ++round) {
    const std::uint64_t budget = ends[0].bytes + random.below(ends[1].bytes - ends[0].bytes + 5000);
    const auto plan = make_plan(all, size_budget(budget));
    ASSERT_TRUE(plan) << plan.error().message;
    EXPECT_LE(plan->bytes, budget);
    EXPECT_EQ(plan->bytes, exact_bytes(*plan));
  }
  EXPECT_EQ(make_plan(all, size_budget(ends[0].bytes))->bytes, ends[0].bytes);
  const auto impossible = make_plan(all, size_budget(ends[0].bytes - 1));
  ASSERT_FALSE(impossible);
  EXPECT_EQ(impossible.error().code, ErrorCode::impossible_budget);
  EXPECT_TRUE(test::contains(impossible.error().message, fmt::format("takes {} bytes", ends[0].bytes)));
}

TEST(MakePlan, PredictsByInteractionsAndNeverDoesWorseWithThem) {
  Random random(3);
  for (int round = 0; round < 8; ++round) {
    const Sensitivity all = test::random_sensitivity(random, 5);
    const Budget budget = bits_per_weight_budget(all, 4.5 + random.uniform()).value();
    const Plan with = make_plan(all, budget).value();
    const Plan without = make_plan(all, budget, {}, {.limits = {}, .interactions = false}).value();
    EXPECT_NEAR(with.predicted_kl, interaction_model(all, with), 1e-9 * with.predicted_kl);
    EXPECT_GT(with.predicted_kl_standard_error, 0);
    EXPECT_LE(with.predicted_kl, without.predicted_kl);
    EXPECT_LE(sum_of_costs(without), sum_of_costs(with) * (1 + 1e-12));
  }
}

/// Independent projections: what search finds in them on 24 samples is chance, and must not be used.
TEST(MakePlan, DoesNotFitChance) {
  Random random(13);
  for (int round = 0; round < 5; ++round) {
    Sensitivity all = test::random_sensitivity(random, 8);
    for (auto& module : all.modules) {
      for (auto& option : module.options) {
        const double size = std::sqrt(option.cost / all.projection_scale);
        for (float& value : option.projections) value = static_cast<float>(size * random.normal());
      }
    }
    const Budget budget = bits_per_weight_budget(all, 4.5).value();
    const Plan with = make_plan(all, budget).value();
    const Plan without = make_plan(all, budget, {}, {.limits = {}, .interactions = false}).value();
    EXPECT_EQ(sum_of_costs(with), sum_of_costs(without));
    EXPECT_EQ(with.gap, 0);
  }
}

/// Two modules whose errors cancel where they have the same width: only the interaction model sees it.
TEST(MakePlan, UsesInteractionsThatHoldOnBothHalvesOfTheSamples) {
  Random random(4);
  Sensitivity all = test::random_sensitivity(random, 1, Estimator::fisher, {2, 3}, {64});
  for (std::size_t s = 0; s < 24; ++s) {
    const float g = random.below(2) == 0 ? 1.0f : -1.0f;
    for (auto& module : all.modules)
      for (auto& option : module.options) option.projections[s] = 0;
    for (std::size_t m : {1u, 2u}) {
      const float sign = m == 1 ? 1.0f : -1.0f;
      all.modules[m].options[0].projections[s] = sign * 2 * g;
      all.modules[m].options[1].projections[s] = sign * 1.5f * g;
    }
  }
  for (std::size_t m : {1u, 2u}) {
    all.modules[m].options[0].cost = 4;
    all.modules[m].options[1].cost = 2.25;
  }
  const std::uint64_t smallest = frontier_points(all, {}, 2)->front().bytes;
  // Room for one upgrade: alone it makes 0.5 of 0 remain.
  const Plan additive =
      make_plan(all, size_budget(smallest + 2500), {}, {.limits = {}, .interactions = false}).value();
  const Plan interacting = make_plan(all, size_budget(smallest + 2500)).value();
  EXPECT_GT(additive.predicted_kl, 0);
  EXPECT_EQ(interacting.predicted_kl, 0);
}

TEST(MakePlan, RespectsRulesAndPins) {
  Random random(5);
  const Sensitivity all = test::random_sensitivity(random, 3);
  const Rules rules{.bits = {3, 4, 5, 6},
                    .group_sizes = {64},
                    .least_bits = 4,
                    .most_bits = 5,
                    .pins = {{"model.layers.1.*", {.bits = 8, .group_size = 32}},
                             {"model.layers.?.mlp.*", {.bits = 16, .group_size = 0}}}};
  const Plan plan = make_plan(all, size_budget(1 << 30), rules).value();
  for (const PlannedModule& module : plan.modules) {
    if (module.layer == 1) {
      EXPECT_EQ(module.format, (quant::Format{8, 32})) << module.name;
    } else if (module.name.ends_with("down_proj")) {
      EXPECT_TRUE(module.format.is_dense()) << module.name;
    } else {
      EXPECT_EQ(module.format, (quant::Format{5, 64})) << module.name;
    }
  }
  const auto message = [&](const Rules& bad) {
    const auto result = make_plan(all, size_budget(1 << 30), bad);
    EXPECT_EQ(result.error().code, ErrorCode::usage);
    return result.error().message;
  };
  EXPECT_EQ(message({.pins = {{"nothing*", {}}}}), "pin \"nothing*\" matches no module");
  EXPECT_EQ(message({.bits = {7}}),
            "module model.embed_tokens: the rules leave none of the formats that were measured");
  EXPECT_TRUE(test::contains(message({.pins = {{"*q_proj", {7, 64}}}}), "pin \"*q_proj\" to 7x64"));
}

TEST(MakePlan, LeavesModulesDenseOnlyWhereAllowed) {
  Random random(6);
  const Sensitivity all = test::random_sensitivity(random, 2);
  const auto count_dense = [&](bool allowed) {
    const Plan plan = make_plan(all, size_budget(1 << 30), {.allow_dense = allowed}).value();
    return std::count_if(plan.modules.begin(), plan.modules.end(),
                         [](const PlannedModule& module) { return module.format.is_dense(); });
  };
  EXPECT_EQ(count_dense(false), 0);
  EXPECT_EQ(count_dense(true), static_cast<std::ptrdiff_t>(all.modules.size()));
}

TEST(MakePlan, SmoothsNoisyCosts) {
  Random random(7);
  Sensitivity all = test::random_sensitivity(random, 1, Estimator::kl, {2, 3, 4}, {64});
  const double costs[] = {1.0, 0.1, 0.4};
  for (auto& module : all.modules) {
    for (std::size_t i = 0; i < 3; ++i) {
      module.options[i].cost = costs[i];
      module.options[i].standard_error = i == 2 ? 0.2 : 0.1;
    }
  }
  const Plan plan = make_plan(all, size_budget(1 << 30), {.bits = {4}},
                              {.limits = {}, .interactions = true, .smooth = true})
                        .value();
  // Weights 1/0.01 and 1/0.04: (4 · 0.1 + 0.4) / 5.
  for (const PlannedModule& module : plan.modules) EXPECT_NEAR(module.cost, 0.16, 1e-12);
}

TEST(Budgets, AreWhatTheyAreCalled) {
  Random random(8);
  const Sensitivity all = test::random_sensitivity(random, 2);
  const Plan dense = make_plan(all, size_budget(1 << 30), {.allow_dense = true}).value();
  EXPECT_EQ(reduce_budget(all, 0.25)->file_bytes, dense.bytes * 3 / 4);
  EXPECT_EQ(bits_per_weight_budget(all, 4)->file_bytes, static_cast<std::uint64_t>(all.model.parameters / 2));
  for (const double bad : {0.0, -1.0, 33.0, std::nan("")})
    EXPECT_EQ(bits_per_weight_budget(all, bad).error().code, ErrorCode::usage);
  for (const double bad : {0.0, 1.0, std::nan("")})
    EXPECT_EQ(reduce_budget(all, bad).error().code, ErrorCode::usage);

  Sensitivity wide = all;
  wide.model.dtype = DType::f32;
  for (auto& tensor : wide.fixed) tensor.dtype = DType::f32;
  EXPECT_NEAR(static_cast<double>(reduce_budget(wide, 0.5)->file_bytes), static_cast<double>(dense.bytes) / 2,
              8);
}

TEST(Budgets, MemoryIsFilesAndCacheAndScratch) {
  Random random(9);
  const Sensitivity all = test::random_sensitivity(random, 2);
  const std::uint64_t limit = 200'000'000;
  const Budget budget = memory_budget(all, limit, {.context_tokens = 1000, .sequences = 3}).value();
  ASSERT_TRUE(budget.memory);
  // 2 layers · 2 heads · 64 · 3 times 1000 tokens in pages of 256, keys and values, 2 bytes.
  EXPECT_EQ(budget.memory->cache_bytes, 2u * 2 * 64 * 3 * 1024 * 2 * 2);
  // 128 MiB, 4 buffers of 512 tokens of down_proj's 128 + 384 in f32, 320 logits.
  EXPECT_EQ(budget.memory->scratch_bytes, (128u << 20) + 4 * 512 * 512 * 4 + 320 * 4);
  EXPECT_EQ(budget.file_bytes, limit - budget.memory->cache_bytes - budget.memory->scratch_bytes);
  const Plan plan = make_plan(all, budget).value();
  ASSERT_TRUE(plan.memory);
  EXPECT_EQ(plan.memory->weight_bytes, plan.bytes);
  EXPECT_LE(plan.memory->total(), limit);
  EXPECT_EQ(memory_budget(all, limit, {.sequences = 0}).error().code, ErrorCode::usage);
  EXPECT_EQ(memory_budget(all, 1000).error().code, ErrorCode::impossible_budget);
  EXPECT_EQ(memory_budget(all, limit, {.context_tokens = 0}).error().code, ErrorCode::usage);
  EXPECT_EQ(memory_budget(all, limit, {.context_tokens = INT64_MAX}).error().code, ErrorCode::usage);
}

/// Σ cost of what the program chooses.
double total_cost(const Plan& plan) {
  double cost = plan.cache ? plan.cache->cost : 0;
  for (const PlannedModule& module : plan.modules) cost += module.cost;
  return cost;
}

/// Every combination of two formats of 5 modules and of 16 pairs of two caches.
class CacheBruteForce {
 public:
  CacheBruteForce(const Sensitivity& all, const MemoryNeed& need) : all_(all), need_(need) {
    Plan plan = uniform_plan(all, all.modules[0].options[0].format).value();
    for (std::size_t mask = 0; mask < (1u << all.modules.size()); ++mask) {
      double cost = 0;
      for (std::size_t m = 0; m < all.modules.size(); ++m) {
        const auto& option = all.modules[m].options.at(mask >> m & 1);
        plan.modules[m].format = option.format;
        cost += option.cost;
      }
      files_.emplace_back(exact_bytes(plan), cost);
    }
    caches_ = {{0, 0}};
    for (std::size_t block = 0; 2 * block < all.caches.size(); ++block) {
      std::vector<std::pair<std::uint64_t, double>> longer;
      for (const auto& [bytes, cost] : caches_)
        for (const auto& [more_bytes, more_cost] : of_block(block))
          longer.emplace_back(bytes + more_bytes, cost + more_cost);
      caches_ = std::move(longer);
    }
  }

  /// The least cost of files and caches within `bytes`.
  [[nodiscard]] double least(std::uint64_t bytes) const {
    double best = INFINITY;
    for (const auto& [file_bytes, file_cost] : files_)
      for (const auto& [cache_bytes, cache_cost] : caches_)
        if (file_bytes + cache_bytes <= bytes) best = std::min(best, file_cost + cache_cost);
    return best;
  }

 private:
  [[nodiscard]] std::vector<std::pair<std::uint64_t, double>> of_block(std::size_t block) const {
    std::vector<std::pair<std::uint64_t, double>> pairs;
    const auto parts = [&](std::size_t part) {
      std::vector<std::pair<int, double>> options{{16, 0.0}};
      for (const auto& option : all_.caches[2 * block + part].options)
        options.emplace_back(option.format.bits, option.cost);
      return options;
    };
    for (const auto& [key_bits, key_cost] : parts(0)) {
      for (const auto& [value_bits, value_cost] : parts(1)) {
        const auto storage = [](int bits) { return *kernels::cpu::storage_of_bits(bits); };
        pairs.emplace_back(block_cache_bytes(memory_shape(all_), need_, static_cast<std::int64_t>(block),
                                             {storage(key_bits), storage(value_bits)}),
                           key_cost + value_cost);
      }
    }
    return pairs;
  }

  const Sensitivity& all_;
  MemoryNeed need_;
  std::vector<std::pair<std::uint64_t, double>> files_, caches_;
};

TEST(PlannedCaches, AreTheBestOfEveryCombination) {
  Random random(test::seed());
  for (int round = 0; round < 6; ++round) {
    Sensitivity all = test::random_sensitivity(random, 2, Estimator::mse, {2, 5}, {64});
    if (round % 2 == 1) {  // only a part of what the second block's cache would be without a window
      all.model.sliding_window = 5;
      all.model.first_sliding_layer = 1;
    }
    test::add_random_caches(random, all, {3, 5, 8});
    for (auto& cache : all.caches)
      for (auto& option : cache.options) option.cost *= 3;
    const MemoryNeed need{.context_tokens = round % 2 == 1 ? 1500 : 300,
                          .sequences = 2,
                          .plans_keys = true,
                          .plans_values = true};
    const CacheBruteForce brute(all, need);
    const std::uint64_t scratch = memory_use(memory_shape(all), need)->scratch_bytes;
    const std::uint64_t unit = round % 2 == 1 ? 2'200'000 : 800'000;
    const std::uint64_t bytes = scratch + unit * 7 / 8 + random.below(unit * 9 / 8);
    const auto budget = memory_budget(all, bytes, need);
    ASSERT_TRUE(budget) << budget.error().message;
    const Plan plan = make_plan(all, *budget).value();
    ASSERT_TRUE(plan.cache && plan.memory);
    EXPECT_LE(plan.memory->total(), bytes);
    std::uint64_t cache_bytes = 0;
    for (std::size_t i = 0; i < plan.cache->blocks.size(); ++i)
      cache_bytes +=
          block_cache_bytes(memory_shape(all), need, static_cast<std::int64_t>(i), plan.cache->blocks[i]);
    EXPECT_EQ(plan.memory->cache_bytes, cache_bytes);
    EXPECT_EQ(plan.memory->weight_bytes, plan.bytes);
    EXPECT_EQ(plan.memory->scratch_bytes, scratch);
    EXPECT_NEAR(plan.predicted_kl, total_cost(plan), 1e-12);
    const auto read = plan_from_json(plan_to_json(plan), "plan");  // which counts the cache again
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(read->model.sliding_window, all.model.sliding_window);
    // Up to the header bytes that depend on the assignment.
    EXPECT_GE(total_cost(plan), brute.least(bytes - scratch) * (1 - 1e-9));
    EXPECT_LE(total_cost(plan), brute.least(bytes - scratch - 64) * (1 + 1e-9));
  }
}

TEST(PlannedCaches, KeepWhatIsFixed) {
  using kernels::cpu::CacheStorage;
  Random random(test::seed());
  Sensitivity all = test::random_sensitivity(random, 3, Estimator::mse);
  const MemoryNeed need{
      .context_tokens = 5000, .cache = {CacheStorage::packed8, CacheStorage::f16}, .plans_values = true};
  const auto unknown = memory_budget(all, 1 << 30, need);
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code, ErrorCode::bad_input);
  EXPECT_NE(unknown.error().message.find("profile again with --kv"), std::string::npos);
  test::add_random_caches(random, all);
  const std::uint64_t scratch = memory_use(memory_shape(all), need)->scratch_bytes;
  const Plan rich = make_plan(all, memory_budget(all, 1 << 30, need).value()).value();
  const Plan poor = make_plan(all, memory_budget(all, scratch + 5'000'000, need).value()).value();
  for (const auto& format : rich.cache->blocks) EXPECT_EQ(format, need.cache);
  for (const auto& format : poor.cache->blocks) EXPECT_EQ(format.keys, CacheStorage::packed8);
  EXPECT_LT(poor.cache->bits(), rich.cache->bits());
  // A packed cache of one format is priced where the profile can; else only counted.
  const MemoryNeed fixed{.context_tokens = 5000, .cache = CacheStorage::packed4};
  const Plan priced = make_plan(all, memory_budget(all, 1 << 30, fixed).value()).value();
  ASSERT_TRUE(priced.cache);
  EXPECT_EQ(priced.cache->bits(), 4);
  EXPECT_GT(priced.predicted_kl, 0);
  all.caches.clear();
  const Plan counted = make_plan(all, memory_budget(all, 1 << 30, fixed).value()).value();
  EXPECT_FALSE(counted.cache);
  EXPECT_EQ(counted.memory->cache_bytes, priced.memory->cache_bytes);
  const auto impossible = memory_budget(all, scratch + 100'000, fixed);
  ASSERT_FALSE(impossible);
  EXPECT_EQ(impossible.error().code, ErrorCode::impossible_budget);
}

/// The samples of weights and cache add up before they are squared.
TEST(PlannedCaches, ArePredictedWithTheWeights) {
  Random random(test::seed());
  Sensitivity all = test::random_sensitivity(random, 2);
  test::add_random_caches(random, all);
  const MemoryNeed need{.context_tokens = 5000, .plans_keys = true, .plans_values = true};
  const std::uint64_t scratch = memory_use(memory_shape(all), need)->scratch_bytes;
  const Plan plan = make_plan(all, memory_budget(all, scratch + 3'000'000, need).value()).value();
  double whole = 0, of_caches = 0;
  for (std::size_t s = 0; s < all.samples(); ++s) {
    double weights = 0, caches = 0;
    const auto add = [&](const std::vector<profile::FormatCost>& options, quant::Format format, double& sum) {
      for (const auto& option : options)
        if (option.format == format) sum += static_cast<double>(option.projections[s]);
    };
    for (std::size_t m = 0; m < plan.modules.size(); ++m)
      add(all.modules[m].options, plan.modules[m].format, weights);
    for (std::size_t b = 0; b < plan.cache->blocks.size(); ++b) {
      add(all.caches[2 * b].options, {cache_bits(plan.cache->blocks[b].keys), 64}, caches);
      add(all.caches[2 * b + 1].options, {cache_bits(plan.cache->blocks[b].values), 64}, caches);
    }
    const double scale = all.projection_scale / static_cast<double>(all.samples());
    whole += scale * (weights + caches) * (weights + caches);
    of_caches += scale * caches * caches;
  }
  EXPECT_GT(of_caches, 0);
  EXPECT_NEAR(plan.predicted_kl, whole, 1e-6 * whole);
  EXPECT_NEAR(plan.cache->predicted_kl, of_caches, 1e-6 * of_caches);
  // Guards keep to the same memory, each with the best cache that its weights leave.
  const auto guards = guard_plans(all, memory_budget(all, scratch + 3'000'000, need).value(), {}).value();
  ASSERT_FALSE(guards.empty());
  for (const Guard& guard : guards) {
    ASSERT_TRUE(guard.plan.cache);
    EXPECT_LE(guard.plan.memory->total(), scratch + 3'000'000);
    EXPECT_TRUE(check_plan(guard.plan, guard.name));
  }
}

/// Interactions are searched for modules alone.
TEST(PlannedCaches, StayAtTheOptimumOfTheSum) {
  Random random(test::seed());
  for (int round = 0; round < 5; ++round) {
    Sensitivity all = test::random_sensitivity(random, 3);
    test::add_random_caches(random, all);
    const MemoryNeed need{.context_tokens = 5000, .plans_keys = true, .plans_values = true};
    const std::uint64_t scratch = memory_use(memory_shape(all), need)->scratch_bytes;
    const Budget budget = memory_budget(all, scratch + 3'000'000, need).value();
    const Plan refined = make_plan(all, budget).value();
    const Plan plain = make_plan(all, budget, {}, {.interactions = false}).value();
    EXPECT_EQ(refined.cache->blocks, plain.cache->blocks);
    EXPECT_LE(refined.memory->total(), scratch + 3'000'000);
  }
}

TEST(ContextPlans, LoseMoreTheLongerTheContext) {
  EXPECT_EQ(context_lengths(5000), (std::vector<std::int64_t>{2048, 4096, 5000}));
  EXPECT_EQ(context_lengths(128), std::vector<std::int64_t>{128});
  EXPECT_EQ(context_lengths(0).back(), 131072);
  Random random(test::seed());
  Sensitivity all = test::random_sensitivity(random, 2, Estimator::mse);
  test::add_random_caches(random, all);
  const MemoryNeed need{.plans_keys = true, .plans_values = true};
  const std::uint64_t scratch = memory_use(memory_shape(all), need)->scratch_bytes;
  const auto plans = context_plans(all, scratch + 9'000'000, need, context_lengths(0)).value();
  ASSERT_EQ(plans.size(), 7u);
  EXPECT_TRUE(plans.front().plan);
  EXPECT_FALSE(plans.back().plan);
  for (std::size_t i = 0; i < plans.size(); ++i) {
    EXPECT_EQ(plans[i].context_tokens, 2048 << i);
    if (!plans[i].plan) continue;
    EXPECT_LE(plans[i].plan->memory->total(), scratch + 9'000'000);
    const double shorter = i > 0 ? plans[i - 1].plan->predicted_kl : 0;
    EXPECT_GE(plans[i].plan->predicted_kl, shorter * (1 - 1e-9));
  }
}

TEST(Pins, ParsePatternAndFormat) {
  const Pin pin = parse_pin("model.layers.[01].*=3x128").value();
  EXPECT_EQ(pin.pattern, "model.layers.[01].*");
  EXPECT_EQ(pin.format, (quant::Format{3, 128}));
  EXPECT_TRUE(parse_pin("lm_head=dense")->format.is_dense());
  for (const char* bad : {"", "lm_head", "=4x64", "lm_head=", "lm_head=4"})
    EXPECT_EQ(parse_pin(bad).error().code, ErrorCode::usage) << bad;
}

TEST(Baselines, UniformPlansHaveOneFormat) {
  Random random(10);
  Sensitivity all = test::random_sensitivity(random, 2);
  auto& options = all.modules[1].options;
  std::erase_if(options, [](const auto& option) { return option.format.group_size == 128; });
  const Plan plan = uniform_plan(all, {4, 128}).value();
  for (const PlannedModule& module : plan.modules) {
    const bool measured = module.name != all.modules[1].name;
    EXPECT_EQ(module.format, measured ? (quant::Format{4, 128}) : (quant::Format{16, 0}));
  }
  EXPECT_EQ(uniform_plan(all, {7, 64}).error().code, ErrorCode::usage);
  EXPECT_EQ(measured_formats(all).size(), 18u);
}

TEST(Baselines, SmallestUniformPlanOfNoFewerBytes) {
  Random random(11);
  const Sensitivity all = test::random_sensitivity(random, 2);
  const auto points = uniform_points(all).value();
  ASSERT_EQ(points.size(), 18u);
  for (const std::uint64_t bytes : {points[0].bytes, points[0].bytes + 1, points[9].bytes - 1}) {
    std::uint64_t expected = UINT64_MAX;
    for (const Point& point : points)
      if (point.bytes >= bytes) expected = std::min(expected, point.bytes);
    EXPECT_EQ(uniform_plan_at_least(all, bytes)->bytes, expected);
  }
  EXPECT_EQ(uniform_plan_at_least(all, 1 << 30).error().code, ErrorCode::bad_input);
}

TEST(Baselines, TheFrontierIsMonotoneAndBelowEveryUniformPlan) {
  Random random(12);
  const Sensitivity all = test::random_sensitivity(random, 4, Estimator::kl);
  const auto frontier = frontier_points(all).value();
  for (std::size_t i = 1; i < frontier.size(); ++i) {
    EXPECT_GT(frontier[i].bytes, frontier[i - 1].bytes);
    EXPECT_LT(frontier[i].cost, frontier[i - 1].cost);
  }
  const auto uniforms = uniform_points(all).value();
  for (const Point& uniform : uniforms) {
    const auto plan = make_plan(all, size_budget(uniform.bytes));
    ASSERT_TRUE(plan);
    EXPECT_LE(plan->predicted_kl, uniform.predicted_kl * (1 + 1e-12)) << uniform.label;
  }
}

}  // namespace
}  // namespace optiq::plan
