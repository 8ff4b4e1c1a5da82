#include "optiq/plan/difference.h"

#include <algorithm>
#include <map>

#include "menu.h"

namespace optiq::plan {

Result<MeanError> predict(const profile::Sensitivity& sensitivity, const Plan& plan) {
  const Menu menu = full_menu(sensitivity);
  if (plan.modules.size() != menu.modules) {
    return fail(ErrorCode::bad_input, "a plan of {} modules, but a profile of {}", plan.modules.size(),
                menu.modules);
  }
  allocate::Choice choice;
  for (std::size_t m = 0; m < plan.modules.size(); ++m) {
    const PlannedModule& module = plan.modules[m];
    const std::string& measured = sensitivity.modules[m].name;
    if (module.name != measured)
      return fail(ErrorCode::bad_input, "module {} of the plan is {} in the profile", module.name, measured);
    const auto& options = menu.options[m];
    const auto found = std::ranges::find(options, module.format, &MenuOption::format);
    if (found == options.end()) {
      return fail(ErrorCode::bad_input, "module {}: the profile did not measure {}", module.name,
                  quant::to_string(module.format));
    }
    choice.push_back(static_cast<std::size_t>(found - options.begin()));
  }
  const Plan priced = assemble(sensitivity, menu, choice);
  return MeanError{priced.predicted_kl, priced.predicted_kl_standard_error};
}

Result<Difference> difference(const Plan& a, const Plan& b) {
  const auto same_module = [](const PlannedModule& x, const PlannedModule& y) { return x.name == y.name; };
  if (!std::ranges::equal(a.modules, b.modules, same_module))
    return fail(ErrorCode::bad_input, "plans of different modules");
  double modules = 0, bytes = 0, all_bytes = 0;
  for (std::size_t m = 0; m < a.modules.size(); ++m) {
    const auto size = static_cast<double>(a.modules[m].bytes);
    all_bytes += size;
    if (a.modules[m].format == b.modules[m].format) continue;
    modules += 1;
    bytes += size;
  }
  return Difference{modules / static_cast<double>(a.modules.size()), bytes / all_bytes};
}

double cost_correlation(const profile::Sensitivity& a, const profile::Sensitivity& b) {
  std::map<std::pair<std::string, quant::Format>, double> costs;
  for (const auto& module : b.modules)
    for (const auto& option : module.options) costs[{module.name, option.format}] = option.cost;
  std::vector<double> of_a, of_b;
  for (const auto& module : a.modules) {
    for (const auto& option : module.options) {
      const auto found = costs.find({module.name, option.format});
      if (found == costs.end()) continue;
      of_a.push_back(option.cost);
      of_b.push_back(found->second);
    }
  }
  return spearman(of_a, of_b);
}

}  // namespace optiq::plan
