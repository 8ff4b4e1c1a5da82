// The KV cache's part of the program: one item a block, whose options are pairs of keys and values.
#include <algorithm>
#include <cmath>
#include <functional>

#include "menu.h"

namespace optiq::plan {
namespace {

using kernels::cpu::CacheFormat;
using kernels::cpu::CacheStorage;

/// Keys, or values, of a block in one storage.
struct PartOption {
  CacheStorage storage = CacheStorage::f16;
  const profile::FormatCost* cost = nullptr;  ///< nullptr: f16, which costs nothing
};

/// All that were measured and f16; only `fixed` where it is not the planner's choice.
std::vector<PartOption> part_options(const profile::CacheSensitivity& measured, bool is_planned,
                                     CacheStorage fixed) {
  std::vector<PartOption> options{{}};
  for (const profile::FormatCost& cost : measured.options)
    options.push_back({*kernels::cpu::storage_of_bits(cost.format.bits), &cost});
  if (!is_planned) std::erase_if(options, [&](const PartOption& option) { return option.storage != fixed; });
  return options;
}

void add_part(const PartOption& part, MenuOption& option) {
  if (part.cost == nullptr) return;
  option.cost += part.cost->cost;
  option.standard_error = std::hypot(option.standard_error, part.cost->standard_error);
  if (part.cost->projections.empty()) return;
  if (option.projections == nullptr) {
    option.projections = &part.cost->projections;
    return;
  }
  std::vector<float> sum = *option.projections;
  std::ranges::transform(sum, part.cost->projections, sum.begin(), std::plus<>());
  option.sum = std::make_shared<const std::vector<float>>(std::move(sum));
  option.projections = option.sum.get();
}

Status add_block(const profile::Sensitivity& sensitivity, std::size_t block, const MemoryNeed& need,
                 Menu& menu) {
  const MemoryShape shape = memory_shape(sensitivity);
  std::vector<MenuOption> options;
  allocate::Items item(1);
  for (const PartOption& keys :
       part_options(sensitivity.caches[2 * block], need.plans_keys, need.cache.keys)) {
    for (const PartOption& values :
         part_options(sensitivity.caches[2 * block + 1], need.plans_values, need.cache.values)) {
      MenuOption& option = options.emplace_back();
      option.cache = CacheFormat(keys.storage, values.storage);
      add_part(keys, option);
      add_part(values, option);
      item[0].push_back(
          {option.cost, block_cache_bytes(shape, need, static_cast<std::int64_t>(block), option.cache)});
    }
  }
  if (options.empty())
    return fail(ErrorCode::bad_input, "KV cache of block {}: the profile did not measure that format", block);
  auto& kept = menu.options.emplace_back();
  auto& items = menu.items.emplace_back();
  const auto undominated = allocate::undominated(item);
  for (const std::size_t index : undominated[0]) {
    kept.push_back(options[index]);
    items.push_back(item[0][index]);
  }
  return {};
}

}  // namespace

Status add_caches(const profile::Sensitivity& sensitivity, const MemoryNeed& need, Menu& menu) {
  if (sensitivity.caches.empty())
    return fail(
        ErrorCode::bad_input,
        "the profile has no costs of the KV cache, so its bits cannot be planned: profile again with --kv");
  for (std::size_t block = 0; 2 * block < sensitivity.caches.size(); ++block)
    OPTIQ_CHECK(add_block(sensitivity, block, need, menu));
  return {};
}

std::uint64_t chosen_cache_bytes(const Menu& menu, const allocate::Choice& choice) {
  std::uint64_t bytes = 0;
  for (std::size_t i = menu.modules; i < choice.size(); ++i) bytes += menu.items[i][choice[i]].bytes;
  return bytes;
}

}  // namespace optiq::plan
