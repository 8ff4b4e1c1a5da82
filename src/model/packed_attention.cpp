#include "packed_attention.h"

#include <algorithm>
#include <limits>

#include "packed_cache.h"
#include "slice.h"

namespace optiq::model {
namespace {

using kernels::cpu::CacheStorage;

/// CUDA launches no more matrices at once.
constexpr std::int64_t kMostMatrices = 65535;

/// What a head's keys and values take for each of their elements while they are unpacked: f16 of the one, and
/// what is made of the other on its way from f32 to f16.
constexpr std::int64_t kUnpackedBytes = 16;

/// Rows are those of one head's group, one query head after another: what shares keys and values is one
/// product.
struct Queries {
  mx::array rows;  ///< f32 [matrices, heads of a group · tokens, head_dim], scaled
  int heads = 0;   ///< of a group
  int tokens = 0;
  int first = 0;  ///< position of the first
  int window = 0;

  [[nodiscard]] int matrices() const { return rows.shape(0); }
  [[nodiscard]] int head_dim() const { return rows.shape(2); }
  [[nodiscard]] int last() const { return first + tokens - 1; }
  /// Positions up to this one are not seen by the last query; negative: it sees all.
  [[nodiscard]] int unseen() const { return window > 0 ? last() - window : -1; }
};

/// What softmax needs of the keys that were met: the largest score of each row, Σ exp(score − largest), and
/// the values weighted so.
struct Sums {
  mx::array largest, weights, values;
};

/// Keys or values of consecutive pages as matrices [pages · matrices, ...].
struct Tile {
  const CachePages& pages;
  int bits, first, count;

  [[nodiscard]] mx::array of(const mx::array& array, mx::Dtype dtype) const {
    return mx::astype(mx::flatten(sliced(array, 0, first, first + count), 0, 2), dtype);
  }
  [[nodiscard]] mx::array elements() const { return of(pages.elements, bits > 0 ? mx::uint32 : mx::float32); }
  [[nodiscard]] mx::array scales() const { return of(pages.scales, mx::float32); }
  [[nodiscard]] mx::array biases() const { return of(pages.biases, mx::float32); }
};

constexpr int kGroup = static_cast<int>(kernels::cpu::kCacheGroup);

/// The queries with each page's keys: [count, matrices, rows, kPage].
mx::array scores_of(const Queries& queries, const Tile& keys) {
  const int matrices = queries.matrices(), all = keys.count * matrices;
  const mx::Shape shape{keys.count, matrices, queries.rows.shape(1), kPage};
  if (keys.bits == 0) {
    const mx::array pages = mx::reshape(keys.elements(), {keys.count, matrices, queries.head_dim(), kPage});
    return mx::matmul(mx::expand_dims(queries.rows, 0), pages);
  }
  // By index, since MLX's CUDA backend would copy queries for each page.
  const mx::array pages = mx::arange(0, all, mx::uint32);
  const mx::array heads = mx::remainder(pages, mx::array(matrices, mx::uint32));
  return mx::reshape(mx::gather_qmm(queries.rows, keys.elements(), keys.scales(), keys.biases(), heads, pages,
                                    false, kGroup, keys.bits),
                     shape);
}

/// Σ over pages of weights [count, matrices, rows, kPage] times values: [matrices, rows, head_dim].
mx::array mixed_by(const mx::array& weights, const Tile& values) {
  const mx::array rows = mx::flatten(weights, 0, 1);
  const mx::array products = values.bits == 0
                                 ? mx::matmul(rows, values.elements())
                                 : mx::quantized_matmul(rows, values.elements(), values.scales(),
                                                        values.biases(), false, kGroup, values.bits);
  return mx::sum(mx::unflatten(products, 0, {weights.shape(0), weights.shape(1)}), 0);
}

/// scores [..., matrices, rows, keys] where the query sees the key, −∞ elsewhere. `positions` i32 [..., 1, 1,
/// 1, keys] of the keys; no query sees those from `end` on.
mx::array masked(const mx::array& scores, const Queries& queries, const mx::array& positions, int end) {
  const mx::array newest =
      mx::reshape(mx::arange(queries.first, queries.first + queries.tokens), {queries.tokens, 1});
  mx::array seen = mx::less_equal(positions, mx::minimum(newest, mx::array(end - 1)));
  if (queries.window > 0) {
    const mx::array unseen = mx::subtract(newest, mx::array(queries.window));
    seen = mx::logical_and(seen, mx::greater(positions, unseen));
  }
  const mx::array by_token = mx::unflatten(scores, -2, {queries.heads, queries.tokens});
  const mx::array nothing(-std::numeric_limits<float>::infinity());
  return mx::reshape(mx::where(seen, by_token, nothing), scores.shape());
}

/// The tokens that are not in pages, among which are the queries themselves.
Sums sums_of_recent(const LayerCache& cache, const Queries& queries) {
  const int rows = cache.rows();
  const auto recent = [&](const mx::array& buffer) {
    return mx::astype(mx::flatten(sliced(buffer, 2, 0, rows), 0, 1), mx::float32);
  };
  const mx::array positions = mx::arange(cache.packed, cache.tokens);
  const mx::array scores = masked(mx::matmul(queries.rows, mx::swapaxes(recent(cache.keys), 1, 2)), queries,
                                  positions, cache.tokens);
  const mx::array largest = mx::max(scores, -1, true);
  const mx::array weights = mx::exp(mx::subtract(scores, largest));
  return {largest, mx::sum(weights, -1, true), mx::matmul(weights, recent(cache.values))};
}

/// `before` and pages [first, first + count) of those that are held.
Sums with_pages(const LayerCache& cache, const Queries& queries, const Sums& before, int first, int count) {
  const auto bits = [](CacheStorage storage) { return kernels::cpu::packed_bits(storage); };
  const Tile keys{cache.key_pages, bits(cache.format->keys), first, count};
  const Tile values{cache.value_pages, bits(cache.format->values), first, count};
  mx::array scores = scores_of(queries, keys);
  const int begin = cache.released + first * kPage, end = begin + count * kPage;
  if (end > cache.packed || begin <= queries.unseen()) {
    const mx::array positions = mx::reshape(mx::arange(begin, end), {count, 1, 1, 1, kPage});
    scores = masked(scores, queries, positions, cache.packed);
  }
  const mx::array largest = mx::maximum(before.largest, mx::squeeze(mx::max(scores, {0, 3}, true), 0));
  const mx::array weights = mx::exp(mx::subtract(scores, largest));
  const mx::array fading = mx::exp(mx::subtract(before.largest, largest));
  return {largest,
          mx::add(mx::multiply(before.weights, fading), mx::squeeze(mx::sum(weights, {0, 3}, true), 0)),
          mx::add(mx::multiply(before.values, fading), mixed_by(weights, values))};
}

/// So many pages at a time: f16 ones, beside packed ones, are widened to f32.
int tile_pages(const LayerCache& cache, const Queries& queries, std::int64_t tile_scores) {
  const auto is_f16 = [](CacheStorage storage) { return storage == CacheStorage::f16; };
  const std::int64_t matrices = queries.matrices();
  std::int64_t of_page = matrices * queries.rows.shape(1) * kPage;
  if (is_f16(cache.format->keys) || is_f16(cache.format->values))
    of_page = std::max(of_page, matrices * queries.head_dim() * kPage);
  return static_cast<int>(std::clamp<std::int64_t>(tile_scores / of_page, 1, kMostMatrices / matrices));
}

mx::array attend_pages(const LayerCache& cache, const Queries& queries, AttentionRoom room) {
  Sums sums = sums_of_recent(cache, queries);
  const int end = (cache.packed - cache.released + kPage - 1) / kPage,
            tile = tile_pages(cache, queries, room.scores);
  const int seen = queries.window > 0 ? std::max(0, queries.first - queries.window + 1 - cache.released) : 0;
  for (int first = seen / kPage; first < end; first += tile) {
    sums = with_pages(cache, queries, sums, first, std::min(tile, end - first));
    // Else scores of many tiles would be there at once: MLX's GPU backends run ahead.
    if (first + tile < end) mx::eval(sums.largest, sums.weights, sums.values);
  }
  return mx::divide(sums.values, sums.weights);
}

/// Few queries: keys and values are read packed.
mx::array attend_narrow(const LayerCache& cache, const mx::array& q, float scale, int window,
                        AttentionRoom room) {
  const int batch = q.shape(0), heads = q.shape(1), tokens = q.shape(2), head_dim = q.shape(3);
  const int kv_heads = cache.keys.shape(1), group = heads / kv_heads;
  const mx::array scaled = mx::multiply(mx::astype(q, mx::float32), mx::array(scale));
  const Queries queries{mx::reshape(scaled, {batch * kv_heads, group * tokens, head_dim}), group, tokens,
                        cache.tokens - tokens, window};
  return mx::astype(mx::reshape(attend_pages(cache, queries, room), q.shape()), q.dtype());
}

/// Many queries: keys and values are unpacked for as many heads at a time as there is room for, for MLX's
/// fused attention; by quantized products, scores would cross memory again and again.
mx::array attend_wide(const LayerCache& cache, const mx::array& q, float scale, int window,
                      AttentionRoom room) {
  const int kv_heads = cache.keys.shape(1), group = q.shape(1) / kv_heads;
  const std::int64_t head_bytes = kUnpackedBytes * q.shape(0) * (cache.tokens - cache.released) * q.shape(3);
  const int count = static_cast<int>(std::clamp<std::int64_t>(room.unpacked_bytes / head_bytes, 1, kv_heads));
  std::vector<mx::array> parts;
  for (int first = 0; first < kv_heads; first += count) {
    const int end = std::min(first + count, kv_heads);
    const KeysValues unpacked = unpacked_heads(cache, first, end);
    // One after another: else what is unpacked for many heads and blocks would be there at once.
    mx::eval(unpacked.keys);
    mx::eval(unpacked.values);
    parts.push_back(attend_to(unpacked, sliced(q, 1, first * group, end * group), scale, window));
    mx::eval(parts.back());
  }
  return mx::concatenate(parts, 1);
}

}  // namespace

mx::array attend_packed(const LayerCache& cache, const mx::array& q, float scale, int window,
                        AttentionRoom room) {
  if (q.shape(2) >= kWideTokens) return attend_wide(cache, q, scale, window, room);
  return attend_narrow(cache, q, scale, window, room);
}

}  // namespace optiq::model
