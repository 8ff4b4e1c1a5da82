// Storing keys and values in a LayerCache whose format packs them.
#pragma once

#include "cache.h"

namespace optiq::model {

inline constexpr int kPage = static_cast<int>(kernels::cpu::kCachePage);
inline constexpr int kChunk = static_cast<int>(kernels::cpu::kCacheChunk);
/// Beside pages, keys and values have room for so many tokens, more only in a pass.
inline constexpr int kRecentTokens = 2 * kChunk;

/// Puts `fresh` (f16) behind what the cache holds, unpacked; lets go before of pages that a `window` (0:
/// none) has left more than kPage tokens behind. Throws as append().
void append_packed(LayerCache& cache, const KeysValues& fresh, int window);

/// Packs all but the newest 64 to 127 tokens, whole chunks, once each.
void settle(LayerCache& cache);

/// Keys and values of the heads [first, end) that are held, those in pages unpacked: f16 [batch, end − first,
/// tokens − released, head_dim].
KeysValues unpacked_heads(const LayerCache& cache, int first, int end);

}  // namespace optiq::model
