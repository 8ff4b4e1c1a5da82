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

/// Of the tokens of one block that are not packed yet.
std::uint64_t waiting_bytes(const kernels::cpu::CacheShape& cache) {
  if (!cache.format.is_packed()) return 0;
  constexpr std::uint64_t kTokens = kPassTokens + 2 * kernels::cpu::kCacheChunk;
  return kTokens * cache.kv_heads * cache.head_dim * 2 * sizeof(std::uint16_t);
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

MemoryShape memory_shape(const profile::Sensitivity& sensitivity) {
  const profile::ModelFacts& facts = sensitivity.model;
  MemoryShape shape{.layers = facts.layers, .kv_heads = facts.kv_heads, .head_dim = facts.head_dim};
  for (const profile::ModuleSensitivity& module : sensitivity.modules)
    include(shape, module.layer, module.out_features, module.in_features);
  return shape;
}

MemoryShape memory_shape(const model::Model& model) {
  const model::ModelConfig& config = model.config();
  MemoryShape shape{.layers = config.layers, .kv_heads = config.kv_heads, .head_dim = config.head_dim};
  for (const model::ModuleShape& module : model.modules())
    include(shape, module.layer, module.out_features, module.in_features);
  return shape;
}

Result<MemoryUse> memory_use(const MemoryShape& shape, const MemoryNeed& need) {
  if (need.context_tokens < 1)
    return fail(ErrorCode::usage, "context of {} tokens: expected a positive number", need.context_tokens);
  if (need.sequences < 1)
    return fail(ErrorCode::usage, "{} sequences: expected a positive number", need.sequences);
  const kernels::cpu::CacheShape cache{static_cast<std::size_t>(shape.kv_heads),
                                       static_cast<std::size_t>(shape.head_dim), need.cache};
  const auto page = static_cast<std::int64_t>(kernels::cpu::kCachePage);
  const std::int64_t pages = (need.context_tokens - 1) / page + 1;
  const double bytes = static_cast<double>(pages) * static_cast<double>(need.sequences) *
                       static_cast<double>(shape.layers) * static_cast<double>(cache.page_bytes());
  if (bytes >= 0x1p60)
    return fail(ErrorCode::usage, "a cache of {} sequences of {} tokens: expected a sensible size",
                need.sequences, need.context_tokens);
  MemoryUse use{.context_tokens = need.context_tokens, .sequences = need.sequences};
  const auto parts = static_cast<std::uint64_t>(need.sequences * shape.layers);
  use.cache_bytes = parts * (static_cast<std::uint64_t>(pages) * cache.page_bytes() + waiting_bytes(cache));
  use.scratch_bytes = scratch_bytes(shape);
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
