#include "cache.h"

#include <stdexcept>

#include "load_weights.h"
#include "packed_attention.h"
#include "packed_cache.h"
#include "slice.h"

namespace optiq::model {
namespace {

mx::Shape with_tokens(mx::Shape shape, int tokens) {
  shape[2] = tokens;
  return shape;
}

mx::array first_tokens(const mx::array& buffer, int tokens) {
  return sliced(buffer, 2, 0, tokens);
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
    *buffer = sliced(*buffer, 2, gone, cache.rows());
  }
  cache.released += gone;
}

/// Rounded to the format's type, f16's within its finite range.
mx::array stored(const mx::array& x, kernels::cpu::CacheStorage storage) {
  const mx::Dtype dtype = mlx_dtype(stored_dtype(storage)).value();
  if (dtype != mx::float16 || x.dtype() == mx::float16) return mx::astype(x, dtype);
  constexpr float kLargest = 65504;
  return mx::astype(mx::clip(mx::astype(x, mx::float32), mx::array(-kLargest), mx::array(kLargest)), dtype);
}

}  // namespace

DType stored_dtype(kernels::cpu::CacheStorage storage) {
  if (storage == kernels::cpu::CacheStorage::f32) return DType::f32;
  return storage == kernels::cpu::CacheStorage::bf16 ? DType::bf16 : DType::f16;
}

KeysValues append(LayerCache& cache, const KeysValues& fresh, int window) {
  check_batch(cache, fresh);
  release(cache, window);
  const int rows = cache.rows(), total = rows + fresh.keys.shape(2);
  cache.keys = write(grown(cache.keys, fresh.keys, rows, total), fresh.keys, rows);
  cache.values = write(grown(cache.values, fresh.values, rows, total), fresh.values, rows);
  cache.tokens += fresh.keys.shape(2);
  return {first_tokens(cache.keys, total), first_tokens(cache.values, total)};
}

void check_batch(const LayerCache& cache, const KeysValues& fresh) {
  if (cache.tokens > 0 && cache.keys.shape(0) != fresh.keys.shape(0)) {
    throw std::invalid_argument(
        fmt::format("KV cache: expected a batch of {}, got {}", cache.keys.shape(0), fresh.keys.shape(0)));
  }
}

mx::array attend(LayerCache& cache, const mx::array& q, const KeysValues& fresh, float scale, int window) {
  KeysValues next = fresh;
  if (cache.format)
    next = {stored(fresh.keys, cache.format->keys), stored(fresh.values, cache.format->values)};
  if (cache.is_packed()) {
    append_packed(cache, next, window);
    const mx::array mixed = attend_packed(cache, q, scale, window);
    settle(cache);
    return mixed;
  }
  return attend_to(append(cache, next, window), q, scale, window);
}

mx::array attend_to(const KeysValues& all, const mx::array& q, float scale, int window) {
  // Our CPU primitive takes f32; MLX's attention would widen keys and values to the queries' type.
  const bool on_cpu = mx::default_device() == mx::Device::cpu;
  const auto operand = [&](const mx::array& x) {
    return on_cpu ? mx::astype(x, mx::float32) : mx::astype(x, all.keys.dtype());
  };
  const mx::array mixed =
      kernels::attention(operand(q), operand(all.keys), operand(all.values), scale, window);
  return mx::astype(mixed, q.dtype());
}

}  // namespace optiq::model
