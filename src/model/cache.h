// Appending to a block's keys and values.
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

inline constexpr int kCacheStep = 256;

}  // namespace optiq::model
