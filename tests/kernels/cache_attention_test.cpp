// LayerCache and attend() against scalar double attention over the values as they are stored.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/reference.h"
#include "optiq/base/half.h"
#include "optiq/kernels/kv_cache.h"
#include "src/kernels/cpu/isa.h"
#include "support/seed.h"

namespace optiq::kernels::cpu {
namespace {

using Floats = std::vector<float>;
using test::Doubles;

constexpr CacheStorage kStorages[] = {CacheStorage::f32, CacheStorage::f16, CacheStorage::bf16,
                                      CacheStorage::int8};

Floats random_floats(Random& random, std::size_t count) {
  Floats values(count);
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

/// What a cache keeps of one head's vector.
Doubles stored(CacheStorage storage, const float* x, std::size_t d) {
  Doubles values;
  float top = 0;
  for (std::size_t j = 0; j < d; ++j) top = std::max(top, std::abs(x[j]));
  const float scale = top / 127;
  for (std::size_t j = 0; j < d; ++j) {
    if (storage == CacheStorage::f32) values.push_back(x[j]);
    if (storage == CacheStorage::f16) values.push_back(f16_to_f32(f32_to_f16(x[j])));
    if (storage == CacheStorage::bf16) values.push_back(bf16_to_f32(f32_to_bf16(x[j])));
    if (storage == CacheStorage::int8)
      values.push_back(std::nearbyint(x[j] / scale) * static_cast<double>(scale));
  }
  return values;
}

/// [tokens][heads·d] into [heads][tokens][d], as stored.
Doubles by_head(CacheStorage storage, const Floats& x, std::size_t tokens, std::size_t heads, std::size_t d,
                std::size_t stride) {
  Doubles values;
  for (std::size_t h = 0; h < heads; ++h) {
    for (std::size_t t = 0; t < tokens; ++t) {
      const Doubles row = stored(storage, &x[t * stride + h * d], d);
      values.insert(values.end(), row.begin(), row.end());
    }
  }
  return values;
}

struct Case {
  std::size_t kv_heads, group, d, before, queries, window;
};

void check(Random& random, CacheStorage storage, const Case& c) {
  const std::size_t tokens = c.before + c.queries, stride = c.kv_heads * c.d + 3,
                    q_heads = c.kv_heads * c.group;
  const Floats k = random_floats(random, tokens * stride), v = random_floats(random, tokens * stride);
  LayerCache cache({c.kv_heads, c.d, storage});
  // In uneven pieces, with a detour that is forgotten again.
  for (std::size_t at = 0; at < tokens;) {
    const std::size_t count = std::min<std::size_t>(tokens - at, 1 + random.below(300));
    cache.append(v.data(), k.data(), stride, 1 + random.below(5) % tokens);
    cache.truncate(at);
    cache.append(&k[at * stride], &v[at * stride], stride, count);
    at += count;
  }
  ASSERT_EQ(cache.tokens(), tokens);
  const std::size_t q_stride = q_heads * c.d + 5;
  const Floats q = random_floats(random, c.queries * q_stride);
  Floats y(c.queries * q_heads * c.d, std::numeric_limits<float>::quiet_NaN());
  AttentionMemory memory;
  const float scale = 1.0f / std::sqrt(static_cast<float>(c.d));
  attend(cache, {q.data(), q_stride, y.data(), c.queries, q_heads, scale, c.window}, memory);

  Doubles queries;
  for (std::size_t h = 0; h < q_heads; ++h) {
    for (std::size_t t = 0; t < c.queries; ++t) {
      for (std::size_t j = 0; j < c.d; ++j) queries.push_back(q[t * q_stride + h * c.d + j]);
    }
  }
  const test::reference::AttentionShape shape{1,
                                              q_heads,
                                              c.kv_heads,
                                              c.queries,
                                              tokens,
                                              c.d,
                                              c.d,
                                              static_cast<double>(scale),
                                              static_cast<int>(c.window)};
  const Doubles keys = by_head(storage, k, tokens, c.kv_heads, c.d, stride),
                values = by_head(storage, v, tokens, c.kv_heads, c.d, stride);
  const Doubles expected = test::reference::attention(shape, queries, keys, values);
  // Scores err by their terms' size times √d roundings, weights by as much, and sums over weights add little.
  const double score_error =
      test::largest(queries) * test::largest(keys) * std::sqrt(c.d) * 4 * test::kF32Epsilon;
  const double tolerance = test::largest(values) * (2 * score_error + 64 * test::kF32Epsilon);
  for (std::size_t t = 0; t < c.queries; ++t) {
    for (std::size_t h = 0; h < q_heads; ++h) {
      for (std::size_t j = 0; j < c.d; ++j) {
        ASSERT_NEAR(y[(t * q_heads + h) * c.d + j], expected[(h * c.queries + t) * c.d + j], tolerance)
            << "query " << t << " head " << h << " element " << j;
      }
    }
  }
}

TEST(CacheAttention, MatchesTheDoubleReference) {
  Random random(test::seed());
  const Case cases[] = {{1, 1, 8, 0, 1, 0},     {2, 4, 64, 0, 1, 0},     {2, 4, 64, 700, 1, 0},
                        {2, 3, 40, 2100, 1, 0}, {3, 1, 128, 255, 2, 0},  {2, 2, 64, 0, 70, 0},
                        {1, 7, 16, 250, 33, 0}, {2, 4, 64, 600, 1, 300}, {1, 2, 24, 500, 40, 17},
                        {2, 1, 20, 1500, 5, 1}, {1, 33, 8, 300, 3, 0}};
  for (const CacheStorage storage : kStorages) {
    for (const Case& c : cases) {
      SCOPED_TRACE(testing::Message() << "storage " << static_cast<int>(storage) << " d " << c.d << " before "
                                      << c.before << " queries " << c.queries << " window " << c.window);
      check(random, storage, c);
    }
    for (int i = 0; i < 10; ++i) {
      const Case c{1 + random.below(3),        1 + random.below(6),
                   4 * (1 + random.below(20)), random.below(900),
                   1 + random.below(50),       random.below(3) == 0 ? 1 + random.below(400) : 0};
      SCOPED_TRACE(testing::Message() << "storage " << static_cast<int>(storage) << " kv " << c.kv_heads
                                      << " group " << c.group << " d " << c.d << " before " << c.before
                                      << " queries " << c.queries << " window " << c.window);
      check(random, storage, c);
    }
  }
}

TEST(CacheAttention, OneTokenAtATimeEqualsAllAtOnce) {
  Random random(test::seed());
  constexpr std::size_t kTokens = 300, kHeads = 2, kGroup = 3, kDim = 32, kWidth = kHeads * kGroup * kDim;
  const Floats k = random_floats(random, kTokens * kHeads * kDim),
               v = random_floats(random, kTokens * kHeads * kDim),
               q = random_floats(random, kTokens * kWidth);
  AttentionMemory memory;
  LayerCache whole({kHeads, kDim, CacheStorage::f16}), grown({kHeads, kDim, CacheStorage::f16});
  Floats all(kTokens * kWidth), single(kWidth);
  whole.append(k.data(), v.data(), kHeads * kDim, kTokens);
  attend(whole, {q.data(), kWidth, all.data(), kTokens, kHeads * kGroup, 0.2f, 0}, memory);
  for (std::size_t t = 0; t < kTokens; ++t) {
    grown.append(&k[t * kHeads * kDim], &v[t * kHeads * kDim], kHeads * kDim, 1);
    attend(grown, {&q[t * kWidth], kWidth, single.data(), 1, kHeads * kGroup, 0.2f, 0}, memory);
    for (std::size_t j = 0; j < kWidth; ++j) ASSERT_NEAR(single[j], all[t * kWidth + j], 1e-5) << t;
  }
}

/// What one token's value cannot hold must not reach queries that do not see it.
TEST(CacheAttention, HugeAndInfiniteValuesStayWithThoseWhoSeeThem) {
  for (const CacheStorage storage : {CacheStorage::f16, CacheStorage::int8}) {
    LayerCache cache({1, 8, storage});
    Floats k(2 * 8, 0.5f), v(2 * 8, 1.0f);
    v[8] = storage == CacheStorage::f16 ? 1e6f : 1e30f;
    cache.append(k.data(), v.data(), 8, 2);
    const Floats q(2 * 8, 1.0f);
    Floats y(2 * 8, std::numeric_limits<float>::quiet_NaN());
    AttentionMemory memory;
    attend(cache, {q.data(), 8, y.data(), 2, 1, 1.0f, 0}, memory);
    for (std::size_t j = 0; j < 8; ++j) EXPECT_NEAR(y[j], 1.0f, 1e-2f);
    EXPECT_GT(y[8], 1e4f);
  }
}

TEST(CacheAttention, NothingToAskIsFine) {
  AttentionMemory memory;
  attend(LayerCache({1, 8, CacheStorage::f16}), {nullptr, 8, nullptr, 0, 1, 1.0f, 0}, memory);
}

TEST(CacheAttention, MemoryIsWhatThePagesSay) {
  const CacheShape f16{4, 64, CacheStorage::f16}, int8{4, 64, CacheStorage::int8};
  EXPECT_EQ(f16.page_bytes(), 2 * 4 * 64 * 2 * kCachePage);
  EXPECT_EQ(int8.page_bytes(), 4 * kCachePage * (2 * 64 + 2 * sizeof(float)));
  LayerCache cache(f16);
  EXPECT_EQ(cache.bytes(), 0u);
  const Floats x(kCachePage * 256 + 256, 1.0f);
  cache.append(x.data(), x.data(), 256, kCachePage);
  EXPECT_EQ(cache.bytes(), f16.page_bytes());
  cache.append(x.data(), x.data(), 256, 1);
  EXPECT_EQ(cache.bytes(), 2 * f16.page_bytes());
}

}  // namespace
}  // namespace optiq::kernels::cpu
