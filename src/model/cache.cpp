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

/// Lets go of the rows that the window has left more than kCacheStep tokens behind, a step at a time.
void release(LayerCache& cache, int window) {
  const int excess = cache.rows() - (window - 1) - kCacheStep;
  if (window == 0 || excess < kCacheStep) return;
  const int gone = excess / kCacheStep * kCacheStep;
  for (mx::array* buffer : {&cache.keys, &cache.values}) {
    *buffer = mx::slice(*buffer, {0, 0, gone, 0}, with_tokens(buffer->shape(), cache.rows()));
  }
  cache.released += gone;
}

}  // namespace

KeysValues append(LayerCache& cache, const KeysValues& fresh, int window) {
  if (cache.tokens > 0 && cache.keys.shape(0) != fresh.keys.shape(0)) {
    throw std::invalid_argument(
        fmt::format("KV cache: expected a batch of {}, got {}", cache.keys.shape(0), fresh.keys.shape(0)));
  }
  release(cache, window);
  const int rows = cache.rows(), total = rows + fresh.keys.shape(2);
  cache.keys = write(grown(cache.keys, fresh.keys, rows, total), fresh.keys, rows);
  cache.values = write(grown(cache.values, fresh.values, rows, total), fresh.values, rows);
  cache.tokens += fresh.keys.shape(2);
  return {first_tokens(cache.keys, total), first_tokens(cache.values, total)};
}

}  // namespace optiq::model
