// Attention over a packed cache by MLX operations.
#pragma once

#include "optiq/model/model.h"

namespace optiq::model {

inline constexpr std::int64_t kTileScores = std::int64_t{1} << 24;

/// softmax(scale·q·kᵀ)·v of the newest tokens in the cache over all before them and themselves (causal; a
/// `window` above 0: over so many last tokens, itself included). q [batch, heads, T, head_dim] → the same, in
/// q's dtype; computed in f32 with a running maximum and sum (Dao et al. 2022, FlashAttention). Packed keys
/// and values are read as they are by quantized products, tile by tile. A tile has at most `tile_scores`
/// scores, or one page's; where there is more than one, each is evaluated before the next begins, so this may
/// throw what evaluation throws.
mx::array attend_packed(const LayerCache& cache, const mx::array& q, float scale, int window,
                        std::int64_t tile_scores = kTileScores);

}  // namespace optiq::model
