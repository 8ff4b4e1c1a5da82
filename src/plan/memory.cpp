#include "optiq/plan/memory.h"

#include <fmt/format.h>

#include <algorithm>

namespace optiq::plan {
namespace {

constexpr std::uint64_t kProcessBytes = 128ull << 20;
constexpr std::uint64_t kPassTokens = 512;
constexpr std::uint64_t kActivationBuffers = 4;

std::uint64_t scratch_bytes(const MemoryShape& shape) {
  return kProcessBytes + (kActivationBuffers * kPassTokens * static_cast<std::uint64_t>(shape.widest) +
                          static_cast<std::uint64_t>(shape.logits)) *
                             sizeof(float);
}

kernels::cpu::CacheShape block_cache(const MemoryShape& shape, std::int64_t layer,
                                     kernels::cpu::CacheFormat format) {
  const std::int64_t window = layer >= shape.first_sliding_layer ? shape.sliding_window : 0;
  return {static_cast<std::size_t>(shape.kv_heads), static_cast<std::size_t>(shape.head_dim), format,
          static_cast<std::size_t>(window)};
}

/// Of all blocks at need.cache: those before the first sliding one take one size, the others another.
std::uint64_t all_cache_bytes(const MemoryShape& shape, const MemoryNeed& need) {
  const std::int64_t whole = std::clamp<std::int64_t>(shape.first_sliding_layer, 0, shape.layers);
  std::uint64_t bytes = 0;
  if (whole > 0) bytes += static_cast<std::uint64_t>(whole) * block_cache_bytes(shape, need, 0, need.cache);
  if (whole < shape.layers) {
    bytes += static_cast<std::uint64_t>(shape.layers - whole) *
             block_cache_bytes(shape, need, shape.layers - 1, need.cache);
  }
  return bytes;
}

/// What stands for a format that is still to be chosen: one that is packed takes the most while it fills.
kernels::cpu::CacheFormat standing_in(const MemoryNeed& need) {
  kernels::cpu::CacheFormat format = need.cache;
  if (need.plans_keys) format.keys = kernels::cpu::CacheStorage::packed8;
  if (need.plans_values) format.values = kernels::cpu::CacheStorage::packed8;
  return format;
}

Status check_need(const MemoryShape& shape, const MemoryNeed& need) {
  if (need.context_tokens < 1)
    return fail(ErrorCode::usage, "context of {} tokens: expected a positive number", need.context_tokens);
  if (need.sequences < 1)
    return fail(ErrorCode::usage, "{} sequences: expected a positive number", need.sequences);
  if (!standing_in(need).is_valid()) {
    return fail(
        ErrorCode::usage,
        "KV cache: packed keys or values, or such as the planner chooses, go with packed or f16 ones");
  }
  const double pages = static_cast<double>(need.context_tokens) / kernels::cpu::kCachePage + 1;
  const double f32_page =
      8.0 * kernels::cpu::kCachePage * static_cast<double>(shape.kv_heads * shape.head_dim);
  const double bytes =
      pages * static_cast<double>(need.sequences) * static_cast<double>(shape.layers) * f32_page;
  if (bytes < 0x1p60) return {};
  return fail(ErrorCode::usage, "a cache of {} sequences of {} tokens: expected a sensible size",
              need.sequences, need.context_tokens);
}

/// A matrix of `layer` (negative: embeddings or head) makes the shape's figures no smaller.
void include(MemoryShape& shape, std::int64_t layer, std::int64_t out, std::int64_t in) {
  if (layer < 0) {
    shape.logits = std::max(shape.logits, out);
  } else {
    shape.widest = std::max(shape.widest, out + in);
  }
}

}  // namespace

MemoryShape memory_shape(const profile::ModelFacts& facts) {
  return {.layers = facts.layers,
          .kv_heads = facts.kv_heads,
          .head_dim = facts.head_dim,
          .sliding_window = facts.sliding_window,
          .first_sliding_layer = facts.first_sliding_layer};
}

MemoryShape memory_shape(const profile::Sensitivity& sensitivity) {
  MemoryShape shape = memory_shape(sensitivity.model);
  for (const profile::ModuleSensitivity& module : sensitivity.modules)
    include(shape, module.layer, module.out_features, module.in_features);
  return shape;
}

MemoryShape memory_shape(const model::Model& model) {
  const model::ModelConfig& config = model.config();
  MemoryShape shape{.layers = config.layers,
                    .kv_heads = config.kv_heads,
                    .head_dim = config.head_dim,
                    .sliding_window = config.sliding_window,
                    .first_sliding_layer = config.first_sliding_layer};
  for (const model::ModuleShape& module : model.modules())
    include(shape, module.layer, module.out_features, module.in_features);
  return shape;
}

std::uint64_t block_cache_bytes(const MemoryShape& shape, const MemoryNeed& need, std::int64_t layer,
                                kernels::cpu::CacheFormat format) {
  return static_cast<std::uint64_t>(need.sequences) *
         block_cache(shape, layer, format)
             .most_bytes(static_cast<std::size_t>(need.context_tokens), kPassTokens);
}

Result<MemoryUse> memory_use(const MemoryShape& shape, const MemoryNeed& need) {
  OPTIQ_CHECK(check_need(shape, need));
  MemoryUse use{.context_tokens = need.context_tokens, .sequences = need.sequences};
  if (!need.plans_cache()) use.cache_bytes = all_cache_bytes(shape, need);
  use.scratch_bytes = scratch_bytes(shape) + block_cache(shape, 0, standing_in(need)).pass_bytes(kPassTokens);
  return use;
}

Result<std::vector<ContextFit>> fits(const MemoryShape& shape, std::int64_t parameters, const Device& device,
                                     const std::vector<MemoryNeed>& needs) {
  std::vector<ContextFit> all;
  for (const MemoryNeed& need : needs) {
    OPTIQ_TRY(const MemoryUse use, memory_use(shape, need));
    const std::uint64_t left = device.usable_bytes - std::min(use.total(), device.usable_bytes);
    all.push_back({need, use, left, 8 * static_cast<double>(left) / static_cast<double>(parameters)});
  }
  return all;
}

}  // namespace optiq::plan
