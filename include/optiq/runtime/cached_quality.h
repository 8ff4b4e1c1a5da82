// Perplexity as the CPU engine decodes: with what its KV cache loses.
#pragma once

#include <span>

#include "optiq/engine/engine.h"
#include "optiq/evaluate/evaluate.h"

namespace optiq::runtime {

/// Tokens fed at once: as few as stay in f16 in any packed cache, so that a token sees the others about as it
/// would when they were decoded one by one.
inline constexpr std::size_t kCachedStep = kernels::cpu::kCacheChunk;

/// evaluate_text with windows that are fed to an engine kCachedStep tokens at a time; `options.compute` gives
/// way to the engine's. The reference, where there is one (or nullptr), is fed the same to an engine that
/// rounds neither activations nor keys and values. Memory: the engines', and logits of a step, twice.
Result<evaluate::Quality> evaluate_cached(const model::Model& model, const model::Model* reference,
                                          std::span<const std::int32_t> tokens,
                                          const evaluate::Options& options, const engine::Options& engine,
                                          const Progress& progress);

}  // namespace optiq::runtime
