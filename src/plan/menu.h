// The options that the rules leave each module, as the knapsack's items, and back to a plan.
#pragma once

#include <memory>

#include "optiq/plan/planner.h"

namespace optiq::plan {

struct MenuOption {
  quant::Format format;
  double cost = 0;
  double standard_error = 0;
  const std::vector<float>* projections = nullptr;  ///< nullptr: none, or all zero (dense)
  kernels::cpu::CacheFormat cache = {};             ///< of a block's KV cache
  std::shared_ptr<const std::vector<float>> sum =
      {};  ///< holds what `projections` of keys and values add up to
};

/// The sensitivity's modules, then, where the KV cache is part of the program, every block's. Borrows the
/// sensitivity's projections.
struct Menu {
  std::vector<std::vector<MenuOption>> options;
  allocate::Items items;  ///< the same options; bytes of the tensors alone, or of the cache
  std::size_t modules = 0;

  [[nodiscard]] bool has_caches() const { return options.size() > modules; }
};

Result<Menu> make_menu(const profile::Sensitivity& sensitivity, const Rules& rules, bool smooth);

/// Every measured format of every module, and dense, without any rule.
Menu full_menu(const profile::Sensitivity& sensitivity);

/// Adds every block's cache: the options that `need` leaves, less those that others beat in cost and bytes.
/// bad_input where the profile has no costs of them.
Status add_caches(const profile::Sensitivity& sensitivity, const MemoryNeed& need, Menu& menu);

/// Bytes of the caches of a choice.
std::uint64_t chosen_cache_bytes(const Menu& menu, const allocate::Choice& choice);

/// Gives the items their picoseconds of a decoded token, rounded up. bad_input naming the module and a format
/// that the table lacks.
Status add_times(const profile::Sensitivity& sensitivity, const LatencyTable& table, Menu& menu);

/// The plan of a choice, with its exact size and predictions; no budget, gap or times.
Plan assemble(const profile::Sensitivity& sensitivity, const Menu& menu, const allocate::Choice& choice);

/// What the budget says of a plan that was assembled from the choice: budget_bytes, memory and latency.
void apply_budget(const Menu& menu, const allocate::Choice& choice, const Budget& budget, Plan& plan);

/// The menu under the rules, with times and caches where the budget limits them. usage for a limit that is no
/// positive time.
Result<Menu> make_budget_menu(const profile::Sensitivity& sensitivity, const Budget& budget,
                              const Rules& rules, bool smooth);

/// Bytes of all files of a choice, headers included, and of its caches.
std::uint64_t choice_bytes(const profile::Sensitivity& sensitivity, const Menu& menu,
                           const allocate::Choice& choice);

/// The option of fewest bytes for each module.
allocate::Choice smallest_choice(const Menu& menu);

/// The projections of samples [begin, end) of every option of the menu's modules; zeros where it has none.
allocate::Projections make_projections(const profile::Sensitivity& sensitivity, const Menu& menu,
                                       std::size_t begin, std::size_t end);

}  // namespace optiq::plan
