#include <algorithm>
#include <cmath>

#include "isa.h"
#include "optiq/base/threads.h"
#include "optiq/kernels/kv_cache.h"
#include "packed_attention.h"
#include "products.h"
#include "scratch.h"

namespace optiq::kernels::cpu {
namespace {

/// Rows (a query of one head) that share a pass over a page: their scores stay in the second-level cache.
constexpr std::size_t kTileRows = 32;
/// Segments that one task of a decoding step covers, so that a long context is shared by more threads than it
/// has heads.
constexpr std::size_t kSpanSegments = 4;

/// How the work is cut; by shapes only.
struct Cut {
  std::size_t group, tile_queries, tiles, spans, span_segments;

  Cut(const LayerCache& cache, const CacheQuery& query) {
    const std::size_t segments = cache.segments();
    group = query.q_heads / cache.shape().kv_heads;
    tile_queries = std::max<std::size_t>(1, kTileRows / group);
    tiles = (query.queries + tile_queries - 1) / tile_queries;
    span_segments = tiles == 1 ? kSpanSegments : segments;
    spans = (segments + span_segments - 1) / span_segments;
  }
};

/// Running softmax of some rows: maximum, sum of exponentials, and weighted values [rows][width].
struct Running {
  std::size_t rows, d;
  float *top, *sum, *values;

  Running(float* memory, std::size_t row_count, std::size_t width)
      : rows(row_count), d(width), top(memory), sum(memory + rows), values(memory + 2 * rows) {}
  static std::size_t floats(std::size_t rows, std::size_t d) { return rows * (d + 2); }

  void clear() const {
    std::fill_n(top, rows, -INFINITY);
    std::fill_n(sum, rows + rows * d, 0.0f);
  }
  /// What was seen so far was relative to the old maximum.
  void raise(std::size_t row, float maximum) const {
    if (!(maximum > top[row])) return;
    const float factor = std::exp(top[row] - maximum);
    sum[row] *= factor;
    kernels().scale(values + row * d, factor, d, values + row * d);
    top[row] = maximum;
  }
  void merge(const Running& other) const {
    for (std::size_t r = 0; r < rows; ++r) {
      if (other.sum[r] == 0) continue;
      raise(r, other.top[r]);
      const float factor = std::exp(other.top[r] - top[r]);
      sum[r] += factor * other.sum[r];
      kernels().add_scaled(factor, other.values + r * d, d, values + r * d);
    }
  }
};

class Attention {
 public:
  Attention(const LayerCache& cache, const CacheQuery& query)
      : cache_(cache), query_(query), cut_(cache, query) {}

  void run(AttentionMemory& memory) {
    const std::size_t heads = cache_.shape().kv_heads, state = Running::floats(tile_rows(), value_width());
    const std::size_t tasks = heads * cut_.tiles * cut_.spans;
    float* states = memory.reserve(tasks * state);
    parallel_for(tasks, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t task = begin; task < end; ++task) {
        const std::size_t span = task % cut_.spans, tile = task / cut_.spans;
        // The last tiles see the most keys: they go first, so that no thread ends with a long one.
        const std::size_t last = heads * cut_.tiles - 1 - tile;
        attend_span(last / cut_.tiles, queries_of(last % cut_.tiles), span,
                    states + (last * cut_.spans + span) * state);
      }
    });
    for (std::size_t tile = 0; tile < heads * cut_.tiles; ++tile)
      finish(tile / cut_.tiles, queries_of(tile % cut_.tiles), states + tile * cut_.spans * state, state);
  }

 private:
  [[nodiscard]] std::size_t d() const { return cache_.shape().head_dim; }
  /// Floats of a query and of a row of results: whole steps and blocks, as packed tiles have them.
  [[nodiscard]] std::size_t query_width() const { return round_up(d(), kCacheSteps); }
  [[nodiscard]] std::size_t value_width() const { return round_up(d(), kCacheBlock); }
  [[nodiscard]] std::size_t tile_rows() const { return cut_.tile_queries * cut_.group; }
  [[nodiscard]] Range queries_of(std::size_t tile) const {
    return {tile * cut_.tile_queries, std::min((tile + 1) * cut_.tile_queries, query_.queries)};
  }
  /// Tokens that a query sees.
  [[nodiscard]] Range visible(std::size_t query) const {
    const std::size_t end = cache_.tokens() - query_.queries + query + 1;
    return {query_.window > 0 && end > query_.window ? end - query_.window : 0, end};
  }

  /// Row r of a tile is query r / group, head r % group of the group.
  void attend_span(std::size_t head, Range queries, std::size_t span, float* memory) const {
    const Running running(memory, queries.size() * cut_.group, value_width());
    running.clear();
    float* q = scratch<float>(Slot::gradients, running.rows * query_width());
    for (std::size_t r = 0; r < running.rows; ++r) {
      const float* from = query_.q + (queries.begin + r / cut_.group) * query_.q_stride +
                          (head * cut_.group + r % cut_.group) * d();
      kernels().scale(from, query_.scale, d(), q + r * query_width());
      std::fill(q + r * query_width() + d(), q + (r + 1) * query_width(), 0.0f);
    }
    const Range seen{visible(queries.begin).begin, visible(queries.end - 1).end};
    const std::size_t last = std::min((span + 1) * cut_.span_segments, cache_.segments());
    for (std::size_t i = span * cut_.span_segments; i < last; ++i) {
      const CacheSegment segment = cache_.segment(i, head);
      const std::byte* next = i + 1 < cache_.segments() ? cache_.segment(i + 1, head).keys : nullptr;
      if (segment.begin < seen.end && segment.begin + segment.count > seen.begin)
        add_segment(segment, next, queries, std::min(segment.count, seen.end - segment.begin), q, running);
    }
  }

  /// The first `n` tokens of a segment; `next`: the next one's keys.
  void add_segment(const CacheSegment& segment, const std::byte* next, Range queries, std::size_t n,
                   const float* q, const Running& running) const {
    float* scores = scratch<float>(Slot::scores, running.rows * kCachePage);
    if (packed_bits(segment.format.keys) > 0) {
      packed_scores(segment, d(), n, q, running.rows, scores);
    } else {
      kernels().cache_scores(segment.format.keys, segment.keys, d(), (n + kCacheBlock - 1) / kCacheBlock, q,
                             query_width(), running.rows, scores, kCachePage);
    }
    const bool are_packed = packed_bits(segment.format.values) > 0;
    const std::size_t begin = segment.begin, end = are_packed ? round_up(n, kCacheChunk) : n;
    for (std::size_t r = 0; r < running.rows; ++r) {
      const Range seen = visible(queries.begin + r / cut_.group);
      const Range part{std::clamp(seen.begin, begin, begin + n) - begin,
                       std::clamp(seen.end, begin, begin + n) - begin};
      weigh(scores + r * kCachePage, part, end, segment, r, running);
    }
    if (are_packed) {
      add_packed_values(segment, next, d(), n, scores, running.rows, running.values);
    } else {
      kernels().cache_values(segment.format.values, segment.values, d(), n, scores, kCachePage, running.rows,
                             running.values, value_width());
    }
  }

  /// Scores of one row into weights relative to the row's maximum; what is not seen gets 0.
  void weigh(float* scores, Range seen, std::size_t n, const CacheSegment& segment, std::size_t row,
             const Running& running) const {
    const std::size_t count = seen.size();
    if (count > 0) {
      float* part = scores + seen.begin;
      if (segment.key_scales != nullptr)
        kernels().multiply_elements(part, segment.key_scales + seen.begin, count, part);
      running.raise(row, kernels().maximum(part, count));
      running.sum[row] += kernels().exp_in_place(part, count, running.top[row]);
      if (segment.value_scales != nullptr)
        kernels().multiply_elements(part, segment.value_scales + seen.begin, count, part);
    }
    std::fill(scores, scores + seen.begin, 0.0f);
    std::fill(scores + seen.end, scores + n, 0.0f);
  }

  void finish(std::size_t head, Range queries, float* memory, std::size_t state) const {
    const Running total(memory, queries.size() * cut_.group, value_width());
    for (std::size_t span = 1; span < cut_.spans; ++span)
      total.merge(Running(memory + span * state, total.rows, value_width()));
    for (std::size_t r = 0; r < total.rows; ++r) {
      const std::size_t query = queries.begin + r / cut_.group, q_head = head * cut_.group + r % cut_.group;
      kernels().scale(total.values + r * value_width(), 1 / total.sum[r], d(),
                      query_.y + (query * query_.q_heads + q_head) * d());
    }
  }

  const LayerCache& cache_;
  const CacheQuery& query_;
  Cut cut_;
};

}  // namespace

float* AttentionMemory::reserve(std::size_t count) {
  if (values_.size() < count) values_.resize(count);
  return values_.data();
}

void attend(const LayerCache& cache, const CacheQuery& query, AttentionMemory& memory) {
  if (query.queries > 0) Attention(cache, query).run(memory);
}

}  // namespace optiq::kernels::cpu
