#include "menu.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "optiq/base/statistics.h"

namespace optiq::plan {
namespace {

constexpr quant::Format kDense{.bits = 16, .group_size = 0};

/// In picoseconds such times are still exact as doubles.
constexpr double kMostModuleSeconds = 9000;

bool matches(const Pin& pin, const std::string& name) {
  return ::fnmatch(pin.pattern.c_str(), name.c_str(), 0) == 0;
}

const Pin* pin_of(const Rules& rules, const std::string& name) {
  const auto found =
      std::find_if(rules.pins.begin(), rules.pins.end(), [&](const Pin& pin) { return matches(pin, name); });
  return found == rules.pins.end() ? nullptr : &*found;
}

bool listed(const std::vector<int>& allowed, int value) {
  return allowed.empty() || std::find(allowed.begin(), allowed.end(), value) != allowed.end();
}

bool permits(const Rules& rules, const Pin* pin, quant::Format format) {
  if (pin != nullptr) return pin->format == format;
  if (format.is_dense()) return rules.allow_dense;
  return listed(rules.bits, format.bits) && listed(rules.group_sizes, format.group_size) &&
         format.bits >= rules.least_bits && format.bits <= rules.most_bits;
}

std::vector<MenuOption> all_options(const profile::ModuleSensitivity& module) {
  std::vector<MenuOption> options;
  for (const profile::FormatCost& measured : module.options) {
    options.push_back({measured.format, measured.cost, measured.standard_error,
                       measured.projections.empty() ? nullptr : &measured.projections});
  }
  options.push_back({.format = kDense});
  return options;
}

/// Isotonic regression by pooling neighbours: `run` in rising bits, costs to fall.
void pool_violators(std::vector<MenuOption*>& run) {
  struct Block {
    double weight;
    double mean;
    std::size_t count;
  };
  std::vector<Block> blocks;
  for (const MenuOption* option : run) {
    const double error = std::max(option->standard_error, 1e-12);
    blocks.push_back({1 / (error * error), option->cost, 1});
    while (blocks.size() > 1 && blocks[blocks.size() - 2].mean < blocks.back().mean) {
      const Block last = blocks.back();
      blocks.pop_back();
      Block& before = blocks.back();
      before.mean = (before.mean * before.weight + last.mean * last.weight) / (before.weight + last.weight);
      before.weight += last.weight;
      before.count += last.count;
    }
  }
  std::size_t next = 0;
  for (const Block& block : blocks)
    for (std::size_t i = 0; i < block.count; ++i) run[next++]->cost = block.mean;
}

void smooth_costs(std::vector<MenuOption>& options) {
  std::map<int, std::vector<MenuOption*>> runs;
  for (MenuOption& option : options)
    if (!option.format.is_dense()) runs[option.format.group_size].push_back(&option);
  for (auto& [group_size, run] : runs) {
    std::sort(run.begin(), run.end(),
              [](const MenuOption* a, const MenuOption* b) { return a->format.bits < b->format.bits; });
    pool_violators(run);
  }
}

Status check_pins(const profile::Sensitivity& sensitivity, const Rules& rules) {
  for (const Pin& pin : rules.pins) {
    const bool used = std::any_of(sensitivity.modules.begin(), sensitivity.modules.end(),
                                  [&](const auto& module) { return matches(pin, module.name); });
    if (!used) return fail(ErrorCode::usage, "pin \"{}\" matches no module", pin.pattern);
  }
  return {};
}

void add_items(const profile::Sensitivity& sensitivity, Menu& menu) {
  menu.modules = sensitivity.modules.size();
  for (std::size_t m = 0; m < menu.modules; ++m) {
    const profile::ModuleSensitivity& module = sensitivity.modules[m];
    auto& item = menu.items.emplace_back();
    for (const MenuOption& option : menu.options[m]) {
      item.push_back({option.cost, quant::module_bytes(module.out_features, module.in_features, option.format,
                                                       sensitivity.model.dtype)});
    }
  }
}

/// Whether a token only looks up one row of it: the embeddings, where there is a head beside them.
bool is_lookup(const profile::Sensitivity& sensitivity, const std::string& name) {
  return name == "model.embed_tokens" &&
         std::any_of(sensitivity.modules.begin(), sensitivity.modules.end(),
                     [](const auto& module) { return module.name == "lm_head"; });
}

/// mean_s (Σ projections)² · scale with its standard error over samples, of the items from `first` on.
MeanError predict_by_projections(const profile::Sensitivity& sensitivity, const Menu& menu,
                                 const allocate::Choice& choice, std::size_t first) {
  std::vector<double> sums(sensitivity.samples(), 0.0);
  for (std::size_t m = first; m < choice.size(); ++m) {
    const auto* projections = menu.options[m][choice[m]].projections;
    if (projections == nullptr) continue;
    for (std::size_t s = 0; s < sums.size(); ++s) sums[s] += static_cast<double>((*projections)[s]);
  }
  for (double& sum : sums) sum = sum * sum * sensitivity.projection_scale;
  return mean_with_error(sums);
}

MeanError predict_by_sum(const Menu& menu, const allocate::Choice& choice, std::size_t first) {
  MeanError sum;
  double variance = 0;
  for (std::size_t m = first; m < choice.size(); ++m) {
    const MenuOption& option = menu.options[m][choice[m]];
    sum.mean += option.cost;
    variance += option.standard_error * option.standard_error;
  }
  sum.standard_error = std::sqrt(variance);
  return sum;
}

MeanError predict_choice(const profile::Sensitivity& sensitivity, const Menu& menu,
                         const allocate::Choice& choice, std::size_t first) {
  return sensitivity.samples() > 0 ? predict_by_projections(sensitivity, menu, choice, first)
                                   : predict_by_sum(menu, choice, first);
}

CachePlan cache_plan(const profile::Sensitivity& sensitivity, const Menu& menu,
                     const allocate::Choice& choice) {
  CachePlan plan;
  for (std::size_t i = menu.modules; i < choice.size(); ++i) {
    plan.blocks.push_back(menu.options[i][choice[i]].cache);
    plan.cost += menu.options[i][choice[i]].cost;
  }
  const MeanError predicted = predict_choice(sensitivity, menu, choice, menu.modules);
  plan.predicted_kl = predicted.mean;
  plan.predicted_kl_standard_error = predicted.standard_error;
  return plan;
}

Plan without_figures(const profile::Sensitivity& sensitivity, const Menu& menu,
                     const allocate::Choice& choice) {
  Plan plan;
  plan.model = sensitivity.model;
  plan.fixed = sensitivity.fixed;
  for (std::size_t m = 0; m < menu.modules; ++m) {
    const profile::ModuleSensitivity& module = sensitivity.modules[m];
    const MenuOption& option = menu.options[m][choice[m]];
    plan.modules.push_back({.name = module.name,
                            .out_features = module.out_features,
                            .in_features = module.in_features,
                            .layer = module.layer,
                            .format = option.format,
                            .encoder = sensitivity.encoder,
                            .bytes = menu.items[m][choice[m]].bytes,
                            .cost = option.cost});
  }
  return plan;
}

}  // namespace

Result<Menu> make_menu(const profile::Sensitivity& sensitivity, const Rules& rules, bool smooth) {
  OPTIQ_CHECK(check_pins(sensitivity, rules));
  Menu menu;
  for (const profile::ModuleSensitivity& module : sensitivity.modules) {
    std::vector<MenuOption> options = all_options(module);
    if (smooth) smooth_costs(options);
    const Pin* pin = pin_of(rules, module.name);
    std::erase_if(options, [&](const MenuOption& option) { return !permits(rules, pin, option.format); });
    if (options.empty()) {
      const std::string cause = pin == nullptr ? "the rules leave"
                                               : fmt::format("pin \"{}\" to {} leaves", pin->pattern,
                                                             quant::to_string(pin->format));
      return fail(ErrorCode::usage, "module {}: {} none of the formats that were measured", module.name,
                  cause);
    }
    menu.options.push_back(std::move(options));
  }
  add_items(sensitivity, menu);
  return menu;
}

Menu full_menu(const profile::Sensitivity& sensitivity) {
  Menu menu;
  for (const profile::ModuleSensitivity& module : sensitivity.modules)
    menu.options.push_back(all_options(module));
  add_items(sensitivity, menu);
  return menu;
}

Status add_times(const profile::Sensitivity& sensitivity, const LatencyTable& table, Menu& menu) {
  for (std::size_t m = 0; m < menu.modules; ++m) {
    const profile::ModuleSensitivity& module = sensitivity.modules[m];
    if (is_lookup(sensitivity, module.name)) continue;
    for (std::size_t option = 0; option < menu.options[m].size(); ++option) {
      const quant::Format format = menu.options[m][option].format;
      const auto seconds = table.seconds(module.out_features, module.in_features, format);
      if (!seconds) return with_context(seconds.error(), fmt::format("latency: module {}", module.name));
      if (*seconds > kMostModuleSeconds) {
        return fail(ErrorCode::bad_input, "latency: module {} at {}: {} seconds a token are out of range",
                    module.name, quant::to_string(format), *seconds);
      }
      menu.items[m][option].picoseconds = static_cast<std::uint64_t>(std::ceil(*seconds * 1e12));
    }
  }
  return {};
}

std::uint64_t choice_bytes(const profile::Sensitivity& sensitivity, const Menu& menu,
                           const allocate::Choice& choice) {
  return exact_bytes(without_figures(sensitivity, menu, choice)) + chosen_cache_bytes(menu, choice);
}

Plan assemble(const profile::Sensitivity& sensitivity, const Menu& menu, const allocate::Choice& choice) {
  Plan plan = without_figures(sensitivity, menu, choice);
  plan.bytes = exact_bytes(plan);
  plan.bits_per_weight = static_cast<double>(plan.bytes) * 8 / static_cast<double>(plan.model.parameters);
  const MeanError predicted = predict_choice(sensitivity, menu, choice, 0);
  if (menu.has_caches()) plan.cache = cache_plan(sensitivity, menu, choice);
  plan.predicted_kl = predicted.mean;
  plan.predicted_kl_standard_error = predicted.standard_error;
  return plan;
}

allocate::Choice smallest_choice(const Menu& menu) {
  allocate::Choice choice;
  for (const auto& options : menu.items) {
    std::size_t least = 0;
    for (std::size_t option = 1; option < options.size(); ++option)
      if (options[option].bytes < options[least].bytes) least = option;
    choice.push_back(least);
  }
  return choice;
}

allocate::Projections make_projections(const profile::Sensitivity& sensitivity, const Menu& menu,
                                       std::size_t begin, std::size_t end) {
  allocate::Projections projections{
      .samples = end - begin, .scale = sensitivity.projection_scale, .values = {}};
  for (std::size_t m = 0; m < menu.modules; ++m) {
    auto& item = projections.values.emplace_back();
    for (const MenuOption& option : menu.options[m]) {
      if (option.projections == nullptr) {
        item.emplace_back(end - begin, 0.0f);
      } else {
        item.emplace_back(option.projections->begin() + static_cast<std::ptrdiff_t>(begin),
                          option.projections->begin() + static_cast<std::ptrdiff_t>(end));
      }
    }
  }
  return projections;
}

}  // namespace optiq::plan
