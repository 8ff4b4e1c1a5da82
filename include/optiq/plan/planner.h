// From sensitivities and a budget to the best plan, and the uniform plans to compare it with.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "optiq/allocate/knapsack.h"
#include "optiq/plan/latency.h"
#include "optiq/plan/memory.h"
#include "optiq/plan/plan.h"
#include "optiq/profile/sensitivity.h"

namespace optiq::plan {

/// A limit on the time of one decoded token: the table's fixed_seconds and those of every matrix that a token
/// passes. Embeddings count where they are the head too; to look up a row costs nothing.
struct LatencyLimit {
  LatencyTable table;
  double seconds_per_token = 0;
};

/// A limit on the bytes of all safetensors files, headers included, and one on time where that is set.
struct Budget {
  std::uint64_t file_bytes = 0;          ///< of files and KV cache together where `cache` is set
  std::optional<MemoryUse> memory = {};  ///< set by memory_budget; weight_bytes is then the plan's to fill in
  std::optional<LatencyLimit> latency = {};
  /// Set by memory_budget where the profile prices the cache that is needed: its formats are part of the
  /// program, and memory's cache_bytes the plan's to fill in.
  std::optional<MemoryNeed> cache = {};
};

/// --size: the files themselves.
Budget size_budget(std::uint64_t bytes);
/// --bpw: file bits over parameters. usage unless 0 < bits_per_weight ≤ 32.
Result<Budget> bits_per_weight_budget(const profile::Sensitivity& sensitivity, double bits_per_weight);
/// --reduce: that fraction less than the checkpoint takes at 16 bits (f32 tensors counted as 16 bits too).
/// usage unless 0 < fraction < 1.
Result<Budget> reduce_budget(const profile::Sensitivity& sensitivity, double fraction);
/// --memory and --device: what `need` leaves of `bytes` (memory_use). impossible_budget where that is too
/// little for the smallest files and cache; usage as memory_use says; bad_input where the cache is to be
/// planned and the profile has no costs of it.
Result<Budget> memory_budget(const profile::Sensitivity& sensitivity, std::uint64_t bytes,
                             const MemoryNeed& need = {});

/// Modules whose name matches `pattern` (shell wildcards: * ? [..]) get exactly `format`.
struct Pin {
  std::string pattern;
  quant::Format format;
};
/// "model.layers.0.*=8x64", "lm_head=dense"; usage error otherwise.
Result<Pin> parse_pin(const std::string& text);

/// Which formats the planner may use. Empty lists allow all that were measured.
struct Rules {
  std::vector<int> bits = {};
  std::vector<int> group_sizes = {};
  int least_bits = 0;
  int most_bits = 16;
  bool allow_dense = false;    ///< modules may stay in the model's dtype
  std::vector<Pin> pins = {};  ///< the first that matches counts, over every rule above
};

struct PlanOptions {
  allocate::SolveLimits limits = {};
  /// fisher: search on from the optimum of Σ cost with the interactions counted, where that holds on data it
  /// has not seen: improved on each half of the samples, the choice must be better on the other half too. Of
  /// modules only: the caches stay as Σ cost has them, since what packing changes differs from text to text.
  bool interactions = true;
  /// Average costs within a module that rise with more bits at one group size (weighted isotonic
  /// regression): for kl, whose single measurements are noisy. The plan then holds the averaged costs.
  bool smooth = false;
};

/// The best plan within the budget. Σ cost is minimal among the assignments whose files fit, up to the few
/// header bytes that depend on the assignment; the files are never larger than the budget.
/// predicted_kl: fisher: scale · mean_s (Σ projections)² with its standard error over samples; else Σ cost
/// and the root of Σ standard_error². Where the budget has room for weights and KV cache together, each
/// block's cache is an item whose options are pairs of a format of keys and one of values: bytes as
/// block_cache_bytes counts them, the cost the sum of the two, no time. Errors: impossible_budget says the
/// smallest possible size, or the most tokens a second that this size allows; usage for rules that leave a
/// module without format, pins that match nothing, or a limit of time that is no positive number; bad_input
/// for a format that the latency table lacks.
Result<Plan> make_plan(const profile::Sensitivity& sensitivity, const Budget& budget, const Rules& rules = {},
                       const PlanOptions& options = {});

/// Contexts to say something about: 2048 tokens and on, each twice the last, up to the model's positions or,
/// where these are unknown (0) or more, 131072.
std::vector<std::int64_t> context_lengths(std::int64_t max_positions);

/// What a machine's memory allows at one length of context.
struct ContextPlan {
  std::int64_t context_tokens = 0;
  std::optional<Plan> plan;  ///< none where not even the smallest fits
};
/// make_plan within `bytes` of memory for each of `contexts`, all else as `need` says. Errors: those of
/// memory_budget and make_plan, but for budgets that are impossible.
Result<std::vector<ContextPlan>> context_plans(const profile::Sensitivity& sensitivity, std::uint64_t bytes,
                                               const MemoryNeed& need,
                                               const std::vector<std::int64_t>& contexts,
                                               const Rules& rules = {}, const PlanOptions& options = {});

/// Every module at `format`; those whose rows it does not divide stay dense, as mlx-lm does. usage where it
/// was measured for no module.
Result<Plan> uniform_plan(const profile::Sensitivity& sensitivity, quant::Format format);

/// Two formats of mlx-lm's recipes by name (mixed_3_6: 3x64 and 6x64).
struct MixedRecipe {
  quant::Format low;
  quant::Format high;
};
/// What mlx-lm's recipe of these formats gives: `high` for lm_head and for v_proj and down_proj of the first
/// and the last eighth of the blocks and every third block between, `low` for all else; modules whose rows a
/// format does not divide stay dense. Source: mlx-lm 0.32.2, convert.py, mixed_quant_predicate_builder. usage
/// where one of the two was measured for no module.
Result<Plan> mixed_recipe_plan(const profile::Sensitivity& sensitivity, const MixedRecipe& recipe);

/// mlx-lm's mixed_2_6, mixed_3_4, mixed_3_6 and mixed_4_6.
inline constexpr MixedRecipe kMixedRecipes[] = {
    {{2, 64}, {6, 64}}, {{3, 64}, {4, 64}}, {{3, 64}, {6, 64}}, {{4, 64}, {6, 64}}};

/// A simple plan that a chosen one must not be worse than.
struct Guard {
  std::string name;  ///< "uniform 4x64", "mixed_3_6"
  Plan plan;
};
/// Of the uniform plans and of mlx-lm's recipes that keep to the budget's bytes and time and to the rules,
/// the one each of least predicted KL; none of a kind where none keeps to them. Modules whose rows a format
/// does not divide stay dense, which the rules must allow then. Errors: those of make_plan's rules and
/// limits.
Result<std::vector<Guard>> guard_plans(const profile::Sensitivity& sensitivity, const Budget& budget,
                                       const Rules& rules);

/// The formats that were measured for any module, in order.
std::vector<quant::Format> measured_formats(const profile::Sensitivity& sensitivity);

/// The smallest uniform plan of no fewer than `bytes`: the baseline that a plan must beat. Of equal sizes the
/// one of least predicted KL. bad_input where every uniform plan is smaller.
Result<Plan> uniform_plan_at_least(const profile::Sensitivity& sensitivity, std::uint64_t bytes);

/// The uniform plan of least predicted KL within `bytes`: what a plan must never be worse than. bad_input
/// where every uniform plan is larger.
Result<Plan> uniform_plan_at_most(const profile::Sensitivity& sensitivity, std::uint64_t bytes);

/// One point of a size/quality plot.
struct Point {
  std::string label;  ///< format of a uniform plan; empty on the frontier
  std::uint64_t bytes = 0;
  double bits_per_weight = 0;
  double cost = 0;  ///< Σ cost
  double predicted_kl = 0;
};

/// The convex frontier under the rules, smallest first: cost falls strictly from point to point.
Result<std::vector<Point>> frontier_points(const profile::Sensitivity& sensitivity, const Rules& rules = {},
                                           std::size_t most_points = 128);

/// One point for each measured format, in the order of measured_formats.
Result<std::vector<Point>> uniform_points(const profile::Sensitivity& sensitivity);

}  // namespace optiq::plan
