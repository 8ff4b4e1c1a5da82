#include <algorithm>
#include <optional>
#include <set>

#include "menu.h"

namespace optiq::plan {
namespace {

/// Each module at the format that `format_of(its index)` gives; dense where that was not measured for it.
template <class FormatOf>
Plan plan_on(const profile::Sensitivity& sensitivity, const Menu& menu, const FormatOf& format_of) {
  allocate::Choice choice;
  for (std::size_t module = 0; module < menu.modules; ++module) {
    const auto& options = menu.options[module];
    const quant::Format format = format_of(module);
    const auto found = std::find_if(options.begin(), options.end(),
                                    [&](const MenuOption& option) { return option.format == format; });
    const auto dense = options.end() - 1;
    choice.push_back(static_cast<std::size_t>((found == options.end() ? dense : found) - options.begin()));
  }
  return assemble(sensitivity, menu, choice);
}

Plan uniform_on(const profile::Sensitivity& sensitivity, const Menu& menu, quant::Format format) {
  return plan_on(sensitivity, menu, [&](std::size_t) { return format; });
}

Status check_measured(const profile::Sensitivity& sensitivity, quant::Format format) {
  const auto formats = measured_formats(sensitivity);
  if (std::find(formats.begin(), formats.end(), format) == formats.end())
    return fail(ErrorCode::usage, "{} was measured for no module", quant::to_string(format));
  return {};
}

/// Whether the recipes favour a block: the first and the last eighth, and every third between them.
bool is_favoured_block(std::int64_t block, std::int64_t blocks) {
  const std::int64_t eighth = blocks / 8;
  return block < eighth || block >= 7 * blocks / 8 || (block - eighth) % 3 == 2;
}

quant::Format format_of(const profile::Sensitivity& sensitivity, std::size_t index,
                        const MixedRecipe& recipe) {
  const profile::ModuleSensitivity& module = sensitivity.modules[index];
  const auto is_named = [&](const char* part) { return module.name.find(part) != std::string::npos; };
  const bool is_high = is_named("lm_head") || ((is_named("v_proj") || is_named("down_proj")) &&
                                               is_favoured_block(module.layer, sensitivity.model.layers));
  return is_high ? recipe.high : recipe.low;
}

/// Adds the best caches for the bytes that the modules leave; false where none fit.
bool add_best_caches(const profile::Sensitivity& sensitivity, const Menu& menu, const Budget& budget,
                     allocate::Choice& choice) {
  if (!menu.has_caches()) return true;
  const std::uint64_t files = choice_bytes(sensitivity, menu, choice);
  if (files > budget.file_bytes) return false;
  const auto first = menu.items.begin() + static_cast<std::ptrdiff_t>(menu.modules);
  const allocate::Items caches(first, menu.items.end());
  const auto best = allocate::solve(caches, budget.file_bytes - files);
  if (best) choice.insert(choice.end(), best->choice.begin(), best->choice.end());
  return best.has_value();
}

/// The plan of these formats, where the menu has them all and it keeps to the budget. A module for which its
/// format was not measured stays dense.
template <class FormatOf>
std::optional<Plan> allowed_plan(const profile::Sensitivity& sensitivity, const Menu& menu,
                                 const Budget& budget, const FormatOf& format_of_module) {
  allocate::Choice choice;
  for (std::size_t module = 0; module < menu.modules; ++module) {
    quant::Format format = format_of_module(module);
    const auto& measured = sensitivity.modules[module].options;
    if (std::ranges::find(measured, format, &profile::FormatCost::format) == measured.end())
      format = {.bits = 16, .group_size = 0};
    const auto& allowed = menu.options[module];
    const auto found = std::ranges::find(allowed, format, &MenuOption::format);
    if (found == allowed.end()) return std::nullopt;
    choice.push_back(static_cast<std::size_t>(found - allowed.begin()));
  }
  if (!add_best_caches(sensitivity, menu, budget, choice)) return std::nullopt;
  Plan plan = assemble(sensitivity, menu, choice);
  apply_budget(menu, choice, budget, plan);
  if (plan.bytes > plan.budget_bytes) return std::nullopt;
  if (plan.latency && plan.latency->seconds_per_token > plan.latency->limit_seconds) return std::nullopt;
  return plan;
}

/// Keeps the one of less predicted KL.
void keep_better(std::optional<Guard>& best, std::string name, std::optional<Plan> plan) {
  if (!plan || (best && best->plan.predicted_kl <= plan->predicted_kl)) return;
  best = Guard{std::move(name), std::move(*plan)};
}

Point point_of(const Plan& plan, std::string label) {
  Point point{.label = std::move(label),
              .bytes = plan.bytes,
              .bits_per_weight = plan.bits_per_weight,
              .cost = 0,
              .predicted_kl = plan.predicted_kl};
  for (const PlannedModule& module : plan.modules) point.cost += module.cost;
  return point;
}

/// The uniform plan of the least key among those that fit.
template <class Fits, class Key>
std::optional<Plan> first_uniform(const profile::Sensitivity& sensitivity, const Fits& fits, const Key& key) {
  const Menu menu = full_menu(sensitivity);
  std::optional<Plan> best;
  for (const quant::Format format : measured_formats(sensitivity)) {
    Plan plan = uniform_on(sensitivity, menu, format);
    if (fits(plan) && (!best || key(plan) < key(*best))) best = std::move(plan);
  }
  return best;
}

}  // namespace

std::vector<quant::Format> measured_formats(const profile::Sensitivity& sensitivity) {
  std::set<quant::Format> formats;
  for (const profile::ModuleSensitivity& module : sensitivity.modules)
    for (const profile::FormatCost& option : module.options) formats.insert(option.format);
  return {formats.begin(), formats.end()};
}

Result<Plan> uniform_plan(const profile::Sensitivity& sensitivity, quant::Format format) {
  OPTIQ_CHECK(profile::check_sensitivity(sensitivity, "sensitivity"));
  OPTIQ_CHECK(check_measured(sensitivity, format));
  return uniform_on(sensitivity, full_menu(sensitivity), format);
}

Result<Plan> mixed_recipe_plan(const profile::Sensitivity& sensitivity, const MixedRecipe& recipe) {
  OPTIQ_CHECK(profile::check_sensitivity(sensitivity, "sensitivity"));
  OPTIQ_CHECK(check_measured(sensitivity, recipe.low));
  OPTIQ_CHECK(check_measured(sensitivity, recipe.high));
  return plan_on(sensitivity, full_menu(sensitivity),
                 [&](std::size_t index) { return format_of(sensitivity, index, recipe); });
}

Result<std::vector<Guard>> guard_plans(const profile::Sensitivity& sensitivity, const Budget& budget,
                                       const Rules& rules) {
  OPTIQ_CHECK(profile::check_sensitivity(sensitivity, "sensitivity"));
  OPTIQ_TRY(const Menu menu, make_budget_menu(sensitivity, budget, rules, false));
  std::optional<Guard> uniform, mixed;
  for (const quant::Format format : measured_formats(sensitivity)) {
    keep_better(uniform, "uniform " + quant::to_string(format),
                allowed_plan(sensitivity, menu, budget, [&](std::size_t) { return format; }));
  }
  for (const MixedRecipe& recipe : kMixedRecipes) {
    if (!check_measured(sensitivity, recipe.low) || !check_measured(sensitivity, recipe.high)) continue;
    keep_better(mixed, fmt::format("mixed_{}_{}", recipe.low.bits, recipe.high.bits),
                allowed_plan(sensitivity, menu, budget,
                             [&](std::size_t index) { return format_of(sensitivity, index, recipe); }));
  }
  std::vector<Guard> guards;
  if (uniform) guards.push_back(std::move(*uniform));
  if (mixed) guards.push_back(std::move(*mixed));
  return guards;
}

Result<Plan> uniform_plan_at_least(const profile::Sensitivity& sensitivity, std::uint64_t bytes) {
  OPTIQ_CHECK(profile::check_sensitivity(sensitivity, "sensitivity"));
  auto best = first_uniform(
      sensitivity, [bytes](const Plan& plan) { return plan.bytes >= bytes; },
      [](const Plan& plan) { return std::pair(static_cast<double>(plan.bytes), plan.predicted_kl); });
  if (!best) return fail(ErrorCode::bad_input, "no uniform plan takes {} bytes or more", bytes);
  return *best;
}

Result<Plan> uniform_plan_at_most(const profile::Sensitivity& sensitivity, std::uint64_t bytes) {
  OPTIQ_CHECK(profile::check_sensitivity(sensitivity, "sensitivity"));
  auto best = first_uniform(
      sensitivity, [bytes](const Plan& plan) { return plan.bytes <= bytes; },
      [](const Plan& plan) { return std::pair(plan.predicted_kl, static_cast<double>(plan.bytes)); });
  if (!best) return fail(ErrorCode::bad_input, "no uniform plan takes {} bytes or fewer", bytes);
  return *best;
}

Result<std::vector<Point>> frontier_points(const profile::Sensitivity& sensitivity, const Rules& rules,
                                           std::size_t most_points) {
  OPTIQ_CHECK(profile::check_sensitivity(sensitivity, "sensitivity"));
  OPTIQ_TRY(const Menu menu, make_menu(sensitivity, rules, false));
  OPTIQ_TRY(const auto solutions, allocate::frontier(menu.items, most_points));
  std::vector<Point> points;
  for (const allocate::Solution& solution : solutions)
    points.push_back(point_of(assemble(sensitivity, menu, solution.choice), ""));
  return points;
}

Result<std::vector<Point>> uniform_points(const profile::Sensitivity& sensitivity) {
  OPTIQ_CHECK(profile::check_sensitivity(sensitivity, "sensitivity"));
  const Menu menu = full_menu(sensitivity);
  std::vector<Point> points;
  for (const quant::Format format : measured_formats(sensitivity))
    points.push_back(point_of(uniform_on(sensitivity, menu, format), quant::to_string(format)));
  return points;
}

}  // namespace optiq::plan
