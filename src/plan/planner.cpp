#include "optiq/plan/planner.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "menu.h"
#include "optiq/base/units.h"

namespace optiq::plan {
namespace {

using allocate::Choice;
using allocate::Solution;

/// Rounds of fitting the header bytes that depend on the choice.
constexpr int kMostRounds = 8;

std::uint64_t tensor_bytes_of(const Menu& menu, const Choice& choice) {
  std::uint64_t bytes = 0;
  for (std::size_t m = 0; m < choice.size(); ++m) bytes += menu.items[m][choice[m]].bytes;
  return bytes;
}

/// The best choice whose files fit, and the tensor bytes that it was allowed.
struct Fit {
  Solution solution;
  std::uint64_t capacity = 0;  ///< for the modules' tensors, at the headers of this solution
};

/// Solves on the modules' tensors with the rest of the file set aside, then gives what the headers of the
/// solution really left back to the modules, or takes what they lacked, and solves again.
Result<Fit> solve_exactly(const profile::Sensitivity& sensitivity, const Menu& menu,
                          std::uint64_t budget_bytes, const allocate::SolveLimits& limits) {
  const Choice smallest = smallest_choice(menu);
  const std::uint64_t least_bytes = choice_bytes(sensitivity, menu, smallest);
  if (least_bytes > budget_bytes) {
    return fail(ErrorCode::impossible_budget,
                "{} bytes ({}) are not enough: the smallest possible checkpoint takes {} bytes ({})",
                budget_bytes, format_bytes(budget_bytes), least_bytes, format_bytes(least_bytes));
  }
  const std::uint64_t least_tensors = tensor_bytes_of(menu, smallest);
  std::uint64_t capacity = least_tensors + (budget_bytes - least_bytes);
  Fit best;
  bool found = false;
  for (int round = 0; round < kMostRounds && capacity >= least_tensors; ++round) {
    OPTIQ_TRY(Solution candidate, allocate::solve(menu.items, capacity, limits));
    const std::uint64_t bytes = choice_bytes(sensitivity, menu, candidate.choice);
    if (bytes > budget_bytes) {
      const std::uint64_t overrun = bytes - budget_bytes;
      if (candidate.bytes < overrun) break;
      capacity = candidate.bytes - overrun;
      continue;
    }
    const std::uint64_t allowed = candidate.bytes + (budget_bytes - bytes);
    if (!found || candidate.cost < best.solution.cost) best = {std::move(candidate), allowed};
    found = true;
    if (allowed <= capacity) break;
    capacity = allowed;
  }
  if (!found) {
    OPTIQ_TRY(best.solution, allocate::solve(menu.items, least_tensors, limits));
    best.capacity = best.solution.bytes;
  }
  return best;
}

/// Whether refining on samples [begin, end) also helps on all the others.
Result<bool> holds_elsewhere(const profile::Sensitivity& sensitivity, const Menu& menu, const Fit& fit,
                             bool first_half) {
  const std::size_t samples = sensitivity.samples();
  const std::size_t half = samples / 2;
  const auto seen = make_projections(sensitivity, menu, first_half ? 0 : half, first_half ? half : samples);
  const auto unseen = make_projections(sensitivity, menu, first_half ? half : 0, first_half ? samples : half);
  OPTIQ_TRY(const Solution refined, allocate::refine(menu.items, seen, fit.capacity, fit.solution.choice));
  return allocate::interaction_cost(unseen, refined.choice) <
         allocate::interaction_cost(unseen, fit.solution.choice);
}

/// The choice with interactions counted; the one of least Σ cost where they do not carry over from one half
/// of the samples to the other, or where headers put it over the budget.
Result<Choice> refine_where_it_holds(const profile::Sensitivity& sensitivity, const Menu& menu,
                                     const Fit& fit, std::uint64_t budget_bytes) {
  if (sensitivity.samples() < 2) return fit.solution.choice;
  for (const bool first_half : {true, false}) {
    OPTIQ_TRY(const bool holds, holds_elsewhere(sensitivity, menu, fit, first_half));
    if (!holds) return fit.solution.choice;
  }
  const auto all = make_projections(sensitivity, menu, 0, sensitivity.samples());
  OPTIQ_TRY(Solution refined, allocate::refine(menu.items, all, fit.capacity, fit.solution.choice));
  const bool fits = choice_bytes(sensitivity, menu, refined.choice) <= budget_bytes;
  return fits ? std::move(refined.choice) : fit.solution.choice;
}

/// The plan's Σ cost above the bound that the solver proved, as a fraction: refining on interactions gives up
/// some of Σ cost.
double gap_of(const Plan& plan, const Solution& solved) {
  double cost = 0;
  for (const PlannedModule& module : plan.modules) cost += module.cost;
  const double bound = solved.cost - solved.gap * std::fabs(solved.cost);
  const double gap = (cost - bound) / std::max(std::fabs(cost), 1e-300);
  return gap > 1e-12 ? gap : 0;
}

}  // namespace

Result<Plan> make_plan(const profile::Sensitivity& sensitivity, const Budget& budget, const Rules& rules,
                       const PlanOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  OPTIQ_CHECK(profile::check_sensitivity(sensitivity, "sensitivity"));
  OPTIQ_TRY(const Menu menu, make_menu(sensitivity, rules, options.smooth));
  OPTIQ_TRY(const Fit fit, solve_exactly(sensitivity, menu, budget.file_bytes, options.limits));
  Choice choice = fit.solution.choice;
  if (options.interactions) {
    OPTIQ_TRY(choice, refine_where_it_holds(sensitivity, menu, fit, budget.file_bytes));
  }
  Plan plan = assemble(sensitivity, menu, choice);
  plan.budget_bytes = budget.file_bytes;
  plan.gap = gap_of(plan, fit.solution);
  plan.memory = budget.memory;
  if (plan.memory) plan.memory->weight_bytes = plan.bytes;
  plan.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  OPTIQ_CHECK(check_plan(plan, "plan"));
  return plan;
}

}  // namespace optiq::plan
