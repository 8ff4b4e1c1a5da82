#include "cache.h"

#include <stdexcept>

namespace optiq::model {
namespace {

mx::Shape with_tokens(mx::Shape shape, int tokens) {
  shape[2] = tokens;
  return shape;
}

mx::array first_tokens(const mx::array& buffer, int tokens) {
  return mx::slice(buffer, {0, 0, 0, 0}, with_tokens(buffer.shape(), tokens));
}

/// The buffer with room for `needed` tokens, the valid ones kept.
mx::array grown(const mx::array& buffer, const mx::array& like, int valid, int needed) {
  if (valid > 0 && buffer.shape(2) >= needed) return buffer;
  const int capacity = (needed + kCacheStep - 1) / kCacheStep * kCacheStep;
  const mx::array room = mx::zeros(with_tokens(like.shape(), capacity - valid), like.dtype());
  return valid == 0 ? room : mx::concatenate({first_tokens(buffer, valid), room}, 2);
}

mx::array write(const mx::array& buffer, const mx::array& fresh, int begin) {
  return mx::slice_update(buffer, fresh, {0, 0, begin, 0},
                          with_tokens(buffer.shape(), begin + fresh.shape(2)));
}

}  // namespace

KeysValues append(LayerCache& cache, const KeysValues& fresh) {
  if (cache.tokens > 0 && cache.keys.shape(0) != fresh.keys.shape(0)) {
    throw std::invalid_argument(
        fmt::format("KV cache: expected a batch of {}, got {}", cache.keys.shape(0), fresh.keys.shape(0)));
  }
  const int total = cache.tokens + fresh.keys.shape(2);
  cache.keys = write(grown(cache.keys, fresh.keys, cache.tokens, total), fresh.keys, cache.tokens);
  cache.values = write(grown(cache.values, fresh.values, cache.tokens, total), fresh.values, cache.tokens);
  cache.tokens = total;
  return {first_tokens(cache.keys, total), first_tokens(cache.values, total)};
}

}  // namespace optiq::model
