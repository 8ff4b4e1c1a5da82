#include "optiq/plan/planner.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "menu.h"
#include "optiq/base/units.h"

namespace optiq::plan {
namespace {

using allocate::Capacity;
using allocate::Choice;
using allocate::Solution;

/// Rounds of fitting the header bytes that depend on the choice.
constexpr int kMostRounds = 8;

std::uint64_t tensor_bytes_of(const Menu& menu, const Choice& choice) {
  std::uint64_t bytes = 0;
  for (std::size_t m = 0; m < choice.size(); ++m) bytes += menu.items[m][choice[m]].bytes;
  return bytes;
}

double token_seconds(const LatencyTable& table, std::uint64_t picoseconds) {
  return table.fixed_seconds + static_cast<double>(picoseconds) * 1e-12;
}

/// What the limit leaves for the matrices.
std::uint64_t matrix_picoseconds(const Budget& budget) {
  if (!budget.latency) return Capacity::kAnyTime;
  const double seconds = budget.latency->seconds_per_token - budget.latency->table.fixed_seconds;
  const auto most = static_cast<double>(Capacity::kAnyTime);
  return static_cast<std::uint64_t>(std::floor(std::clamp(seconds * 1e12, 0.0, most)));
}

/// Four digits, and never more than `value`, so that who asks for it gets it.
double rounded_down(double value) {
  const double unit = std::pow(10, std::floor(std::log10(value)) - 3);
  return std::floor(value / unit) * unit;
}

/// A solution for the modules' tensors within a capacity that has room for their smallest formats.
Result<Solution> solve_within(const Menu& menu, Capacity capacity, const Budget& budget,
                              const allocate::SolveLimits& limits) {
  auto solution = allocate::solve(menu.items, capacity, limits);
  if (solution || !budget.latency || solution.error().code != ErrorCode::impossible_budget) return solution;
  OPTIQ_TRY(const Solution fastest, allocate::fastest(menu.items, capacity.bytes, limits));
  const double seconds = token_seconds(budget.latency->table, fastest.picoseconds);
  return fail(ErrorCode::impossible_budget,
              "{:.6g} tokens per second ({:.6g} s a token) are too many: within {} bytes ({}) the fastest "
              "possible makes {:.4g} tokens per second ({:.6g} s a token)",
              1 / budget.latency->seconds_per_token, budget.latency->seconds_per_token, budget.file_bytes,
              format_bytes(budget.file_bytes), rounded_down(1 / seconds), seconds);
}

/// The best choice whose files fit, and what it was allowed.
struct Fit {
  Solution solution;
  Capacity capacity{0};  ///< for the modules' tensors, at the headers of this solution
};

/// Solves on the modules' tensors with the rest of the file set aside, then gives what the headers of the
/// solution really left back to the modules, or takes what they lacked, and solves again.
Result<Fit> solve_exactly(const profile::Sensitivity& sensitivity, const Menu& menu, const Budget& budget,
                          const allocate::SolveLimits& limits) {
  const std::uint64_t budget_bytes = budget.file_bytes;
  const Choice smallest = smallest_choice(menu);
  const std::uint64_t least_bytes = choice_bytes(sensitivity, menu, smallest);
  if (least_bytes > budget_bytes) {
    return fail(ErrorCode::impossible_budget,
                "{} bytes ({}) are not enough: the smallest possible checkpoint{} takes {} bytes ({})",
                budget_bytes, format_bytes(budget_bytes), menu.has_caches() ? " and KV cache" : "",
                least_bytes, format_bytes(least_bytes));
  }
  const std::uint64_t least_tensors = tensor_bytes_of(menu, smallest);
  Capacity capacity(least_tensors + (budget_bytes - least_bytes), matrix_picoseconds(budget));
  Fit best;
  bool found = false;
  for (int round = 0; round < kMostRounds && capacity.bytes >= least_tensors; ++round) {
    auto solved = solve_within(menu, capacity, budget, limits);
    if (!solved && found) break;
    OPTIQ_TRY(Solution candidate, std::move(solved));
    const std::uint64_t bytes = choice_bytes(sensitivity, menu, candidate.choice);
    if (bytes > budget_bytes) {
      const std::uint64_t overrun = bytes - budget_bytes;
      if (candidate.bytes < overrun) break;
      capacity.bytes = candidate.bytes - overrun;
      continue;
    }
    const std::uint64_t allowed = candidate.bytes + (budget_bytes - bytes);
    if (!found || candidate.cost < best.solution.cost)
      best = {std::move(candidate), {allowed, capacity.picoseconds}};
    found = true;
    if (allowed <= capacity.bytes) break;
    capacity.bytes = allowed;
  }
  if (!found) {
    capacity.bytes = least_tensors;
    OPTIQ_TRY(best.solution, solve_within(menu, capacity, budget, limits));
    best.capacity = {best.solution.bytes, capacity.picoseconds};
  }
  return best;
}

/// What is searched with interactions: the modules. The caches stay as they are: what packing changes differs
/// from text to text, so that their interactions are noise that a search would only fit.
struct ModuleProgram {
  allocate::Items items;
  Choice start;
  Capacity capacity{0};

  ModuleProgram(const Menu& menu, const Fit& fit)
      : items(menu.items.begin(), menu.items.begin() + static_cast<std::ptrdiff_t>(menu.modules)),
        start(fit.solution.choice.begin(),
              fit.solution.choice.begin() + static_cast<std::ptrdiff_t>(menu.modules)),
        capacity(fit.capacity.bytes - chosen_cache_bytes(menu, fit.solution.choice),
                 fit.capacity.picoseconds) {}
};

/// Whether refining on one half of the samples also helps on the other.
Result<bool> holds_elsewhere(const profile::Sensitivity& sensitivity, const Menu& menu,
                             const ModuleProgram& program, bool first_half) {
  const std::size_t samples = sensitivity.samples();
  const std::size_t half = samples / 2;
  const auto seen = make_projections(sensitivity, menu, first_half ? 0 : half, first_half ? half : samples);
  const auto unseen = make_projections(sensitivity, menu, first_half ? half : 0, first_half ? samples : half);
  OPTIQ_TRY(const Solution refined, allocate::refine(program.items, seen, program.capacity, program.start));
  return allocate::interaction_cost(unseen, refined.choice) <
         allocate::interaction_cost(unseen, program.start);
}

/// The choice with interactions counted; the one of least Σ cost where they do not carry over from one half
/// of the samples to the other, or where headers put it over the budget.
Result<Choice> refine_where_it_holds(const profile::Sensitivity& sensitivity, const Menu& menu,
                                     const Fit& fit, std::uint64_t budget_bytes) {
  if (sensitivity.samples() < 2) return fit.solution.choice;
  const ModuleProgram program(menu, fit);
  for (const bool first_half : {true, false}) {
    OPTIQ_TRY(const bool holds, holds_elsewhere(sensitivity, menu, program, first_half));
    if (!holds) return fit.solution.choice;
  }
  const auto all = make_projections(sensitivity, menu, 0, sensitivity.samples());
  OPTIQ_TRY(const Solution refined, allocate::refine(program.items, all, program.capacity, program.start));
  Choice choice = fit.solution.choice;
  std::ranges::copy(refined.choice, choice.begin());
  const bool fits = choice_bytes(sensitivity, menu, choice) <= budget_bytes;
  return fits ? std::move(choice) : fit.solution.choice;
}

/// The plan's Σ cost above the bound that the solver proved, as a fraction: refining on interactions gives up
/// some of Σ cost.
double gap_of(const Plan& plan, const Solution& solved) {
  double cost = 0;
  for (const PlannedModule& module : plan.modules) cost += module.cost;
  if (plan.cache) cost += plan.cache->cost;
  const double bound = solved.cost - solved.gap * std::fabs(solved.cost);
  const double gap = (cost - bound) / std::max(std::fabs(cost), 1e-300);
  return gap > 1e-12 ? gap : 0;
}

Status check_limit(const LatencyLimit& limit) {
  if (!(limit.seconds_per_token > 0 && std::isfinite(limit.seconds_per_token))) {
    return fail(ErrorCode::usage, "{} seconds a token: expected a positive number", limit.seconds_per_token);
  }
  return check_latency(limit.table, "latency");
}

std::optional<TokenTime> token_time(const Menu& menu, const Choice& choice, const Budget& budget) {
  if (!budget.latency) return std::nullopt;
  std::uint64_t picoseconds = 0;
  for (std::size_t m = 0; m < choice.size(); ++m) picoseconds += menu.items[m][choice[m]].picoseconds;
  return TokenTime{.seconds_per_token = token_seconds(budget.latency->table, picoseconds),
                   .limit_seconds = budget.latency->seconds_per_token};
}

}  // namespace

void apply_budget(const Menu& menu, const Choice& choice, const Budget& budget, Plan& plan) {
  const std::uint64_t cache_bytes = chosen_cache_bytes(menu, choice);
  plan.budget_bytes = budget.file_bytes - std::min(cache_bytes, budget.file_bytes);
  plan.memory = budget.memory;
  if (plan.memory) plan.memory->weight_bytes = plan.bytes;
  if (plan.memory && menu.has_caches()) plan.memory->cache_bytes = cache_bytes;
  plan.latency = token_time(menu, choice, budget);
}

Result<Menu> make_budget_menu(const profile::Sensitivity& sensitivity, const Budget& budget,
                              const Rules& rules, bool smooth) {
  OPTIQ_TRY(Menu menu, make_menu(sensitivity, rules, smooth));
  if (budget.cache) OPTIQ_CHECK(add_caches(sensitivity, *budget.cache, menu));
  if (!budget.latency) return menu;
  OPTIQ_CHECK(check_limit(*budget.latency));
  OPTIQ_CHECK(add_times(sensitivity, budget.latency->table, menu));
  return menu;
}

Result<Plan> make_plan(const profile::Sensitivity& sensitivity, const Budget& budget, const Rules& rules,
                       const PlanOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  OPTIQ_CHECK(profile::check_sensitivity(sensitivity, "sensitivity"));
  OPTIQ_TRY(const Menu menu, make_budget_menu(sensitivity, budget, rules, options.smooth));
  OPTIQ_TRY(const Fit fit, solve_exactly(sensitivity, menu, budget, options.limits));
  Choice choice = fit.solution.choice;
  if (options.interactions) {
    OPTIQ_TRY(choice, refine_where_it_holds(sensitivity, menu, fit, budget.file_bytes));
  }
  Plan plan = assemble(sensitivity, menu, choice);
  plan.gap = gap_of(plan, fit.solution);
  apply_budget(menu, choice, budget, plan);
  plan.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  OPTIQ_CHECK(check_plan(plan, "plan"));
  return plan;
}

}  // namespace optiq::plan
