// Attention over a packed cache by MLX operations.
#pragma once

#include "optiq/model/model.h"

namespace optiq::model {

/// From so many tokens on, a pass unpacks what it attends to.
inline constexpr int kWideTokens = 64;

/// What attention takes at a time, beside its operands and result.
struct AttentionRoom {
  std::int64_t scores = std::int64_t{1} << 23;           ///< of a tile; one page's at least
  std::int64_t unpacked_bytes = std::int64_t{64} << 20;  ///< about; one head's at least
};

/// softmax(scale·q·kᵀ)·v of the newest tokens in the cache over all before them and themselves (causal; a
/// `window` above 0: over so many last tokens, itself included). q [batch, heads, T, head_dim] → the same, in
/// q's dtype.
///
/// T below kWideTokens: in f32 with a running maximum and sum (Dao et al. 2022, FlashAttention); packed keys
/// and values are read as they are by quantized products, tile by tile; where there is more than one, each is
/// evaluated before the next begins.
///
/// Otherwise keys and values of a few heads at a time are unpacked to f16, attended to as if they had been
/// cached so (attend_to), and evaluated.
///
/// So this may throw what evaluation throws.
mx::array attend_packed(const LayerCache& cache, const mx::array& q, float scale, int window,
                        AttentionRoom room = {});

}  // namespace optiq::model
