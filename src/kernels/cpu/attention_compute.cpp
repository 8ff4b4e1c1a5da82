#include <algorithm>
#include <vector>

#include "attention.h"
#include "gemm.h"
#include "isa.h"
#include "optiq/base/threads.h"
#include "products.h"
#include "scratch.h"

namespace optiq::kernels::cpu {
namespace {

/// Queries a tile: its scores stay near 1 MB, but a product needs 16 rows to be worth it. Depends on shapes
/// only.
std::size_t tile_queries(const AttentionShape& s) {
  return std::clamp<std::size_t>((std::size_t{1} << 18) / std::max<std::size_t>(s.keys, 1) / 16 * 16, 16,
                                 128);
}

/// One head's queries and the keys that they see.
struct Tile {
  std::size_t head;  ///< over batch · q_heads
  Range queries;
  Range keys;
};

Tile make_tile(const AttentionShape& s, std::size_t head, std::size_t block, std::size_t size) {
  const Range queries{block * size, std::min((block + 1) * size, s.queries)};
  return {head, queries, {s.first_key(queries.begin), s.last_key(queries.end - 1)}};
}

/// The key/value head of a query head; both count over the batch.
std::size_t kv_head(const AttentionShape& s, std::size_t head) {
  return head / s.group();
}

/// Softmax of one row of scores (over the tile's keys); keys that the query does not see get 0.
void mask_and_normalise(const AttentionShape& s, const Tile& tile, std::size_t query, float* scores) {
  const std::size_t first = s.first_key(query) - tile.keys.begin, last = s.last_key(query) - tile.keys.begin;
  std::fill(scores, scores + first, 0.0f);
  kernels().softmax(scores + first, last - first);
  std::fill(scores + last, scores + tile.keys.size(), 0.0f);
}

/// Probabilities [queries, keys] of a tile.
void probabilities(const AttentionShape& s, const Tile& tile, const float* q, const float* k, float* p) {
  const float* tile_q = q + (tile.head * s.queries + tile.queries.begin) * s.d;
  const float* tile_k = k + (kv_head(s, tile.head) * s.keys + tile.keys.begin) * s.d;
  const std::size_t m = tile.queries.size(), n = tile.keys.size();
  multiply(Product<float>{m, n, s.d, {tile_q, s.d}, {tile_k, s.d, true}, p, n, false, s.scale});
  for (std::size_t i = 0; i < m; ++i) mask_and_normalise(s, tile, tile.queries.begin + i, p + i * n);
}

/// Several queries a tile: products.
void forward_tiles(const AttentionShape& s, const float* q, const float* k, const float* v, float* y) {
  const std::size_t size = tile_queries(s), blocks = (s.queries + size - 1) / size;
  parallel_for(s.batch * s.q_heads * blocks, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      // The last blocks see the most keys: they go first, so that no thread ends with a long one.
      const Tile tile = make_tile(s, i / blocks, blocks - 1 - i % blocks, size);
      const std::size_t m = tile.queries.size(), n = tile.keys.size();
      float* p = scratch<float>(Slot::scores, m * n);
      probabilities(s, tile, q, k, p);
      const float* tile_v = v + (kv_head(s, tile.head) * s.keys + tile.keys.begin) * s.dv;
      multiply(Product<float>{
          m, s.dv, n, {p, n}, {tile_v, s.dv}, y + (tile.head * s.queries + tile.queries.begin) * s.dv, s.dv});
    }
  });
}

/// One query a head: dot products, up to kDotRows heads of a group at a time, so that their keys are read
/// once.
void decode_heads(const AttentionShape& s, std::size_t first_head, std::size_t heads, const float* q,
                  const float* k, const float* v, float* y) {
  const std::size_t kv = kv_head(s, first_head), first = s.first_key(0), n = s.keys - first;
  float* scores = scratch<float>(Slot::scores, heads * n);
  const float* keys = k + (kv * s.keys + first) * s.d;
  float sums[kDotRows];
  for (std::size_t i = 0; i < n; ++i) {
    kernels().dot(Storage::f32, keys + i * s.d, s.d, q + first_head * s.d, s.d, heads, sums);
    for (std::size_t h = 0; h < heads; ++h) scores[h * n + i] = sums[h] * s.scale;
  }
  const float* values = v + (kv * s.keys + first) * s.dv;
  std::fill_n(y + first_head * s.dv, heads * s.dv, 0.0f);
  for (std::size_t h = 0; h < heads; ++h) kernels().softmax(scores + h * n, n);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t h = 0; h < heads; ++h) {
      kernels().add_scaled(scores[h * n + i], values + i * s.dv, s.dv, y + (first_head + h) * s.dv);
    }
  }
}

void forward_decode(const AttentionShape& s, const float* q, const float* k, const float* v, float* y) {
  const std::size_t parts = (s.group() + kDotRows - 1) / kDotRows;
  parallel_for(s.batch * s.kv_heads * parts, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      const std::size_t skipped = i % parts * kDotRows;
      decode_heads(s, i / parts * s.group() + skipped, std::min(kDotRows, s.group() - skipped), q, k, v, y);
    }
  });
}

/// dk and dv of one query head, [keys, d] and [keys, dv], over all its tiles in order; its dq.
void backward_head(const AttentionShape& s, std::size_t head, const float* q, const float* k, const float* v,
                   const float* dy, float* dq, float* dk, float* dv) {
  std::fill_n(dk, s.keys * s.d, 0.0f);
  std::fill_n(dv, s.keys * s.dv, 0.0f);
  const std::size_t size = tile_queries(s), blocks = (s.queries + size - 1) / size;
  for (std::size_t block = 0; block < blocks; ++block) {
    const Tile tile = make_tile(s, head, block, size);
    const std::size_t m = tile.queries.size(), n = tile.keys.size(),
                      row = head * s.queries + tile.queries.begin;
    const std::size_t key = kv_head(s, head) * s.keys + tile.keys.begin;
    float* p = scratch<float>(Slot::scores, m * n);
    float* dp = scratch<float>(Slot::gradients, m * n);
    probabilities(s, tile, q, k, p);
    multiply(Product<float>{
        n, s.dv, m, {p, n, true}, {dy + row * s.dv, s.dv}, dv + tile.keys.begin * s.dv, s.dv, true});
    multiply(Product<float>{m, n, s.dv, {dy + row * s.dv, s.dv}, {v + key * s.dv, s.dv, true}, dp, n});
    for (std::size_t i = 0; i < m; ++i) kernels().softmax_vjp(p + i * n, dp + i * n, n, s.scale);
    multiply(Product<float>{m, s.d, n, {dp, n}, {k + key * s.d, s.d}, dq + row * s.d, s.d});
    multiply(Product<float>{
        n, s.d, m, {dp, n, true}, {q + row * s.d, s.d}, dk + tile.keys.begin * s.d, s.d, true});
  }
}

/// total[h] = Σ over the group's heads of parts, heads in order; `width` floats a head.
void sum_groups(std::size_t kv_heads, std::size_t group, std::size_t width, const float* parts,
                float* total) {
  parallel_for(kv_heads, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t h = begin; h < end; ++h) {
      std::copy_n(parts + h * group * width, width, total + h * width);
      for (std::size_t i = 1; i < group; ++i) {
        kernels().add_scaled(1.0f, parts + (h * group + i) * width, width, total + h * width);
      }
    }
  });
}

}  // namespace

void attention_forward(const AttentionShape& s, const float* q, const float* k, const float* v, float* y) {
  if (s.queries == 1) return forward_decode(s, q, k, v, y);
  forward_tiles(s, q, k, v, y);
}

void attention_backward(const AttentionShape& s, const float* q, const float* k, const float* v,
                        const float* dy, float* dq, float* dk, float* dv) {
  const std::size_t heads = s.batch * s.q_heads;
  std::vector<float> head_dk(heads * s.keys * s.d), head_dv(heads * s.keys * s.dv);
  parallel_for(heads, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t h = begin; h < end; ++h) {
      backward_head(s, h, q, k, v, dy, dq, &head_dk[h * s.keys * s.d], &head_dv[h * s.keys * s.dv]);
    }
  });
  sum_groups(s.batch * s.kv_heads, s.group(), s.keys * s.d, head_dk.data(), dk);
  sum_groups(s.batch * s.kv_heads, s.group(), s.keys * s.dv, head_dv.data(), dv);
}

}  // namespace optiq::kernels::cpu
