// Appending to a block's keys and values, and attention over them.
#pragma once

#include "optiq/model/model.h"

namespace optiq::model {

struct KeysValues {
  mx::array keys;    ///< [batch, kv_heads, tokens, head_dim]
  mx::array values;  ///< likewise
};

/// Puts `fresh` behind what the cache holds and returns all of it. Buffers grow by kCacheStep tokens at a
/// time, so that most appends write in place. Lets go before of what no query of a `window` (0: none) will
/// see, up to kCacheStep tokens back. Throws std::invalid_argument for a batch other than the cache's.
KeysValues append(LayerCache& cache, const KeysValues& fresh, int window = 0);

/// Throws std::invalid_argument for a batch other than the cache's.
void check_batch(const LayerCache& cache, const KeysValues& fresh);

inline constexpr int kCacheStep = 256;

/// Of keys or values that are not in pages.
DType stored_dtype(kernels::cpu::CacheStorage storage);

/// kernels::attention of q [batch, heads, T, head_dim] over the keys and values of a cache, in the dtype that
/// they have (CPU: f32). In q's dtype.
mx::array attend_to(const KeysValues& all, const mx::array& q, float scale, int window);

/// Attention of q [batch, heads, T, head_dim] over what the cache holds and `fresh`, q's own keys and values,
/// which are in the cache then, in its format. In q's dtype. Throws as append().
mx::array attend(LayerCache& cache, const mx::array& q, const KeysValues& fresh, float scale, int window);

}  // namespace optiq::model
