// Appending to a block's keys and values.
#pragma once

#include "optiq/model/model.h"

namespace optiq::model {

struct KeysValues {
  mx::array keys;    ///< [batch, kv_heads, tokens, head_dim]
  mx::array values;  ///< likewise
};

/// Puts `fresh` behind what the cache holds and returns all of it. Buffers grow by kCacheStep tokens at a
/// time, so that most appends write in place. Throws std::invalid_argument for a batch other than the
/// cache's.
KeysValues append(LayerCache& cache, const KeysValues& fresh);

inline constexpr int kCacheStep = 256;

}  // namespace optiq::model
