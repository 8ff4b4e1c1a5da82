// Attention over a packed cache by MLX operations.
#pragma once

#include "optiq/model/model.h"

namespace optiq::model {

/// softmax(scale·q·kᵀ)·v of the newest tokens in the cache over all before them and themselves (causal; a
/// `window` above 0: over so many last tokens, itself included). q [batch, heads, T, head_dim] → the same, in
/// q's dtype; computed in f32 with a running maximum and sum (Dao et al. 2022, FlashAttention). Packed keys
/// and values are read as they are by quantized products, tile by tile, one tile after another, so that
/// scores never take more than kTileScores values a tile, or a page's where that is more.
mx::array attend_packed(const LayerCache& cache, const mx::array& q, float scale, int window);

inline constexpr std::int64_t kTileScores = std::int64_t{1} << 22;

}  // namespace optiq::model
