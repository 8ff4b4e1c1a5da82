#include "packed_cache.h"

#include "optiq/kernels/groups.h"
#include "slice.h"

namespace optiq::model {
namespace {

using kernels::cpu::CacheStorage;

constexpr int rounded_up(int n, int step) {
  return (n + step - 1) / step * step;
}

/// Axes of CachePages' arrays: where the tokens of a page lie.
constexpr int kKeyAxis = 4, kValueAxis = 3;

/// Rows [begin, end) of [batch, kv_heads, rows, head_dim].
mx::array rows_of(const mx::array& buffer, int begin, int end) {
  return sliced(buffer, 2, begin, end);
}

/// Rows [begin, end) in a buffer for `capacity`.
mx::array moved(const mx::array& buffer, int begin, int end, int capacity) {
  mx::Shape room = buffer.shape();
  room[2] = capacity - (end - begin);
  return mx::concatenate({rows_of(buffer, begin, end), mx::zeros(room, buffer.dtype())}, 2);
}

/// `valid` rows and the fresh ones behind them.
mx::array with_rows(const mx::array& buffer, const mx::array& fresh, int valid) {
  const int total = valid + fresh.shape(2), capacity = std::max(kRecentTokens, rounded_up(total, kChunk));
  if (valid == 0) return moved(fresh, 0, total, capacity);
  const mx::array& room = buffer.shape(2) < total ? moved(buffer, 0, valid, capacity) : buffer;
  mx::Shape stop = room.shape();
  stop[2] = total;
  return mx::slice_update(room, fresh, {0, 0, valid, 0}, stop);
}

/// Drops the first `gone` pages.
void drop(mx::array& array, int gone) {
  if (array.size() > 0) array = sliced(array, 0, gone, array.shape(0));
}

void drop(CachePages& pages, int gone) {
  for (mx::array* array : {&pages.elements, &pages.scales, &pages.biases}) drop(*array, gone);
}

void release(LayerCache& cache, int window) {
  const int kept = window + kPage;
  if (window == 0 || cache.tokens + 1 <= kept) return;
  const int end = std::min(cache.tokens + 1 - kept, cache.packed) / kPage * kPage;
  if (end <= cache.released) return;
  const int gone = (end - cache.released) / kPage;
  drop(cache.key_pages, gone);
  drop(cache.value_pages, gone);
  cache.released = end;
}

/// Room for `pages`, given chunks [1, ...] of which so many as lie in a page would stand along `axis`.
mx::array with_pages(const mx::array& array, const mx::array& chunks, int axis, int tokens, int pages) {
  const int held = array.size() == 0 ? 0 : array.shape(0);
  if (held >= pages) return array;
  mx::Shape room = chunks.shape();
  room[0] = pages - held;
  room[axis] = room[axis] / (tokens / kChunk) * (kPage / kChunk);
  const mx::array fresh = mx::zeros(room, chunks.dtype());
  return held == 0 ? fresh : mx::concatenate({array, fresh}, 0);
}

/// Writes chunks of `tokens` tokens, [1, ...] along `axis`, to where token `first` (of those in pages) lies.
void write(mx::array& array, const mx::array& chunks, int axis, int first, int tokens) {
  array = with_pages(array, chunks, axis, tokens, rounded_up(first + tokens, kPage) / kPage);
  const int width = chunks.shape(axis) / (tokens / kChunk);  // of a chunk
  for (int done = 0; done < tokens;) {
    const int token = first + done, count = std::min(tokens - done, kPage - token % kPage);
    mx::Shape from(chunks.ndim(), 0), from_end = chunks.shape(), to(chunks.ndim(), 0),
                                      to_end = chunks.shape();
    from[axis] = done / kChunk * width;
    from_end[axis] = (done + count) / kChunk * width;
    to[0] = token / kPage;
    to_end[0] = to[0] + 1;
    to[axis] = token % kPage / kChunk * width;
    to_end[axis] = to[axis] + count / kChunk * width;
    array = mx::slice_update(array, mx::slice(chunks, from, from_end), to, to_end);
    done += count;
  }
}

/// rows f16 [batch, kv_heads, ...] with tokens along axis − 1.
void pack(CachePages& pages, const mx::array& rows, CacheStorage storage, int axis, int first, int tokens) {
  const auto as_page = [](const mx::array& x) { return mx::expand_dims(x, 0); };
  const int bits = kernels::cpu::packed_bits(storage);
  if (bits == 0) return write(pages.elements, as_page(rows), axis, first, tokens);
  const kernels::PackedGroups groups = kernels::quantize_groups(rows, bits);
  write(pages.elements, as_page(groups.levels), axis, first, tokens);
  write(pages.scales, as_page(groups.scales), axis, first, tokens);
  write(pages.biases, as_page(groups.biases), axis, first, tokens);
}

/// The chunk at `first` of `array`, without the axis of pages.
mx::array chunk_of(const mx::array& array, int axis, int first) {
  const int width = array.shape(axis) / (kPage / kChunk);
  mx::Shape start(array.ndim(), 0), stop = array.shape();
  start[0] = first / kPage;
  stop[0] = start[0] + 1;
  start[axis] = first % kPage / kChunk * width;
  stop[axis] = start[axis] + width;
  return mx::squeeze(mx::slice(array, start, stop), 0);
}

/// f16, of what `part` takes of each of the pages' arrays.
template <typename Part>
mx::array unpacked(const CachePages& pages, CacheStorage storage, const Part& part) {
  const int bits = kernels::cpu::packed_bits(storage);
  const mx::array elements = part(pages.elements);
  if (bits == 0) return elements;
  const mx::array values =
      kernels::dequantize_groups({elements, part(pages.scales), part(pages.biases)}, bits);
  constexpr float kLargest = 65504;
  return mx::astype(mx::clip(values, mx::array(-kLargest), mx::array(kLargest)), mx::float16);
}

/// The chunk at `first`, tokens along axis − 1.
mx::array unpacked_chunk(const CachePages& pages, CacheStorage storage, int axis, int first) {
  return unpacked(pages, storage, [&](const mx::array& array) { return chunk_of(array, axis, first); });
}

/// Heads [first, end) of all pages: [pages, batch, heads, ...].
mx::array unpacked_pages(const CachePages& pages, CacheStorage storage, int first, int end) {
  return unpacked(pages, storage, [&](const mx::array& array) { return sliced(array, 2, first, end); });
}

mx::array transposed(const mx::array& x) {
  return mx::swapaxes(x, -1, -2);
}

}  // namespace

void append_packed(LayerCache& cache, const KeysValues& fresh, int window) {
  check_batch(cache, fresh);
  release(cache, window);
  cache.keys = with_rows(cache.keys, fresh.keys, cache.rows());
  cache.values = with_rows(cache.values, fresh.values, cache.rows());
  cache.tokens += fresh.keys.shape(2);
}

void settle(LayerCache& cache) {
  const int rows = cache.rows(), tokens = (rows / kChunk - 1) * kChunk;
  if (tokens <= 0) return;
  const int first = cache.packed - cache.released;
  pack(cache.key_pages, transposed(rows_of(cache.keys, 0, tokens)), cache.format->keys, kKeyAxis, first,
       tokens);
  pack(cache.value_pages, rows_of(cache.values, 0, tokens), cache.format->values, kValueAxis, first, tokens);
  cache.keys = moved(cache.keys, tokens, rows, kRecentTokens);
  cache.values = moved(cache.values, tokens, rows, kRecentTokens);
  cache.packed += tokens;
}

KeysValues unpacked_heads(const LayerCache& cache, int first, int end) {
  const mx::array keys = sliced(rows_of(cache.keys, 0, cache.rows()), 1, first, end),
                  values = sliced(rows_of(cache.values, 0, cache.rows()), 1, first, end);
  const int held = cache.packed - cache.released;
  if (held <= 0) return {keys, values};
  const auto behind_pages = [&](const mx::array& pages,
                                const mx::array& recent) {  // [batch, heads, pages, ...]
    return mx::concatenate({rows_of(mx::flatten(pages, 2, 3), 0, held), recent}, 2);
  };
  const mx::array key_pages = unpacked_pages(cache.key_pages, cache.format->keys, first, end),
                  value_pages = unpacked_pages(cache.value_pages, cache.format->values, first, end);
  return {behind_pages(mx::transpose(key_pages, {1, 2, 0, 4, 3}), keys),
          behind_pages(mx::transpose(value_pages, {1, 2, 0, 3, 4}), values)};
}

void truncate(LayerCache& cache, int tokens) {
  if (tokens >= cache.tokens) return;
  cache.tokens = tokens;
  if (tokens >= cache.packed) return;
  cache.packed = tokens / kChunk * kChunk;
  const int first = cache.packed - cache.released;
  if (cache.rows() == 0) return;
  cache.keys = moved(transposed(unpacked_chunk(cache.key_pages, cache.format->keys, kKeyAxis, first)), 0,
                     cache.rows(), kRecentTokens);
  cache.values = moved(unpacked_chunk(cache.value_pages, cache.format->values, kValueAxis, first), 0,
                       cache.rows(), kRecentTokens);
}

std::vector<mx::array> LayerCache::arrays() const {
  return {keys,
          values,
          key_pages.elements,
          key_pages.scales,
          key_pages.biases,
          value_pages.elements,
          value_pages.scales,
          value_pages.biases};
}

std::size_t LayerCache::bytes() const {
  std::size_t bytes = 0;
  for (const mx::array& array : arrays()) bytes += array.nbytes();
  return bytes;
}

Status check_cache_format(kernels::cpu::CacheFormat format, std::int64_t head_dim) {
  using kernels::cpu::packed_bits;
  if (!format.is_valid())
    return fail(ErrorCode::usage, "KV cache: packed keys or values go with packed or f16 ones only");
  if (format.keys == CacheStorage::int8 || format.values == CacheStorage::int8)
    return fail(ErrorCode::usage, "KV cache: int8 is for a CPU: expected f16, bf16, f32 or 3 to 8 bits");
  constexpr std::int64_t kKeyChannels = kernels::cpu::kCacheSteps, kValueChannels = kernels::cpu::kCacheGroup;
  if (packed_bits(format.keys) > 0 && head_dim % kKeyChannels != 0)
    return fail(ErrorCode::usage,
                "KV cache: packed keys on a GPU: expected a head_dim that is a multiple of {}, "
                "got {}",
                kKeyChannels, head_dim);
  if (packed_bits(format.values) > 0 && head_dim % kValueChannels != 0)
    return fail(ErrorCode::usage,
                "KV cache: packed values on a GPU: expected a head_dim that is a multiple of {}, "
                "got {}",
                kValueChannels, head_dim);
  return {};
}

}  // namespace optiq::model
