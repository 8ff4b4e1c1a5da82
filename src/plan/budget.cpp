#include <algorithm>
#include <cmath>

#include "menu.h"
#include "optiq/base/units.h"

namespace optiq::plan {
namespace {

/// The checkpoint with nothing quantized, every float of more than 16 bits counted as 16.
std::uint64_t sixteen_bit_bytes(const profile::Sensitivity& sensitivity) {
  const auto narrow = [](DType dtype) { return dtype == DType::f32 ? DType::bf16 : dtype; };
  Plan plan;
  plan.model = sensitivity.model;
  plan.model.dtype = narrow(plan.model.dtype);
  plan.fixed = sensitivity.fixed;
  for (io::TensorSpec& tensor : plan.fixed) tensor.dtype = narrow(tensor.dtype);
  for (const profile::ModuleSensitivity& module : sensitivity.modules) {
    PlannedModule dense;
    dense.name = module.name;
    dense.out_features = module.out_features;
    dense.in_features = module.in_features;
    dense.format = {.bits = 16, .group_size = 0};
    plan.modules.push_back(std::move(dense));
  }
  return exact_bytes(plan);
}

}  // namespace

Budget size_budget(std::uint64_t bytes) {
  return {.file_bytes = bytes};
}

Result<Budget> bits_per_weight_budget(const profile::Sensitivity& sensitivity, double bits_per_weight) {
  if (!(bits_per_weight > 0 && bits_per_weight <= 32))
    return fail(ErrorCode::usage, "{} bits per weight: expected more than 0, at most 32", bits_per_weight);
  return size_budget(static_cast<std::uint64_t>(
      std::floor(bits_per_weight * static_cast<double>(sensitivity.model.parameters) / 8)));
}

Result<Budget> reduce_budget(const profile::Sensitivity& sensitivity, double fraction) {
  if (!(fraction > 0 && fraction < 1))
    return fail(ErrorCode::usage, "reduction by {}: expected a fraction between 0 and 1", fraction);
  const auto full = static_cast<double>(sixteen_bit_bytes(sensitivity));
  return size_budget(static_cast<std::uint64_t>(std::floor(full * (1 - fraction))));
}

Result<Budget> memory_budget(const profile::Sensitivity& sensitivity, std::uint64_t bytes,
                             const MemoryNeed& need) {
  OPTIQ_TRY(MemoryUse memory, memory_use(memory_shape(sensitivity), need));
  Menu menu = full_menu(sensitivity);
  // A packed cache that the profile prices is part of the program, too, so that its loss is predicted.
  const bool has_caches = need.plans_cache() || (need.cache.is_packed() && !sensitivity.caches.empty());
  if (has_caches) {
    OPTIQ_CHECK(add_caches(sensitivity, need, menu));
    memory.cache_bytes = 0;
  }
  const allocate::Choice smallest = smallest_choice(menu);
  const std::uint64_t variable = choice_bytes(sensitivity, menu, smallest);
  const std::uint64_t cache = memory.cache_bytes + chosen_cache_bytes(menu, smallest);
  if (memory.total() + variable > bytes) {
    return fail(
        ErrorCode::impossible_budget,
        "memory of {} bytes ({}) is not enough: the smallest possible takes {} bytes (weights {}, cache "
        "of {} tokens {}, scratch {})",
        bytes, format_bytes(bytes), memory.total() + variable,
        format_bytes(memory.total() + variable - cache - memory.scratch_bytes),
        need.sequences * need.context_tokens, format_bytes(cache), format_bytes(memory.scratch_bytes));
  }
  Budget budget{.file_bytes = bytes - memory.total(), .memory = memory};
  if (has_caches) budget.cache = need;
  return budget;
}

Result<Pin> parse_pin(const std::string& text) {
  const std::size_t equals = text.rfind('=');
  if (equals == std::string::npos || equals == 0)
    return fail(ErrorCode::usage, "pin \"{}\": expected PATTERN=FORMAT, such as lm_head=8x64", text);
  const auto format = quant::parse_format(text.substr(equals + 1));
  if (!format) return with_context(format.error(), fmt::format("pin \"{}\"", text));
  return Pin{.pattern = text.substr(0, equals), .format = *format};
}

}  // namespace optiq::plan
