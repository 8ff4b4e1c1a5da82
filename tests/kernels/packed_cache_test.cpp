// Packed keys and values: what is stored, read back by a scalar decoder of its own, and attention over it.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "kernels/reference.h"
#include "optiq/base/half.h"
#include "optiq/kernels/kv_cache.h"
#include "support/seed.h"

namespace optiq::kernels::cpu {
namespace {

using Floats = std::vector<float>;
using test::Doubles;

constexpr CacheStorage kPacked[] = {CacheStorage::packed3, CacheStorage::packed4, CacheStorage::packed5,
                                    CacheStorage::packed6, CacheStorage::packed8};
constexpr double kHalfEpsilon = 0x1p-11;

std::size_t up(std::size_t n, std::size_t step) {
  return (n + step - 1) / step * step;
}

double half_at(const std::byte* p, std::size_t index) {
  std::uint16_t bits;
  std::memcpy(&bits, p + 2 * index, 2);
  return f16_to_f32(bits);
}

double as_half(float x) {
  return f16_to_f32(f32_to_f16(x));
}

/// A level of a tile of 32 steps and 16 lanes, from its two planes (packed_tile.h), bit by bit.
double integer_at(const std::byte* tile, int bits, std::size_t step, std::size_t lane) {
  const std::size_t all = static_cast<std::size_t>(bits), first = bits == 8 ? 8 : bits == 3 ? 2 : 4;
  double value = 0;
  for (std::size_t b = 0; b < all; ++b) {
    const bool in_first = b < first;
    const std::size_t width = in_first ? first : all - first;
    const std::size_t bit = step / 4 * width + (in_first ? b : b - first);
    const std::byte byte = tile[(in_first ? 0 : first * 64) + bit / 8 * 64 + lane * 4 + step % 4];
    if ((byte >> (bit % 8) & std::byte{1}) != std::byte{}) value += std::ldexp(1.0, static_cast<int>(b));
  }
  return value;
}

double key_at(const CacheSegment& s, std::size_t d, std::size_t token, std::size_t j) {
  const auto bits = static_cast<std::size_t>(packed_bits(s.format.keys));
  if (bits == 0) return half_at(s.keys, (token / 16 * d + j) * 16 + token % 16);
  const std::size_t tile = bits * 64, tiles = up(d, 32) / 32, words = 4 * tiles * tile;
  const std::byte* chunk = s.keys + token / 64 * (words + 4 * d);
  const double q = integer_at(chunk + (token % 64 / 16 * tiles + j / 32) * tile, static_cast<int>(bits),
                              j % 32, token % 16);
  return q * half_at(chunk + words, j) + half_at(chunk + words, d + j);
}

double value_at(const CacheSegment& s, std::size_t d, std::size_t token, std::size_t j) {
  const auto bits = static_cast<std::size_t>(packed_bits(s.format.values));
  if (bits == 0) return half_at(s.values, token * d + j);
  const std::size_t tile = bits * 64, tiles = up(d, 16) / 16, words = 2 * tiles * tile;
  const std::byte* chunk = s.values + token / 64 * (words + 256 * (up(d, 64) / 64));
  const std::size_t slot = token % 64;
  const double q =
      integer_at(chunk + (j / 16 * 2 + slot / 32) * tile, static_cast<int>(bits), slot % 32, j % 16);
  const std::byte* group = chunk + words + j / 64 * 256;
  return q * half_at(group, slot) + half_at(group, 64 + slot);
}

/// [heads][tokens][d] as stored; NaN for what was let go of.
struct Decoded {
  Doubles keys, values;
  std::size_t packed = 0;  ///< tokens

  explicit Decoded(const LayerCache& cache) {
    const std::size_t d = cache.shape().head_dim;
    for (std::size_t h = 0; h < cache.shape().kv_heads; ++h) {
      std::size_t token = 0;
      packed = 0;
      for (std::size_t i = 0; i < cache.segments(); ++i) {
        const CacheSegment s = cache.segment(i, h);
        EXPECT_EQ(s.begin, token);
        token += s.count;
        if (s.format.is_packed()) packed += s.count;
        for (std::size_t t = 0; t < s.count; ++t) {
          for (std::size_t j = 0; j < d; ++j) {
            keys.push_back(s.keys == nullptr ? NAN : key_at(s, d, t, j));
            values.push_back(s.values == nullptr ? NAN : value_at(s, d, t, j));
          }
        }
      }
      EXPECT_EQ(token, cache.tokens());
    }
  }
};

/// Keys with channels much larger than others, as models have them.
Floats random_floats(Random& random, std::size_t count, std::size_t outlier_step = 0) {
  Floats values(count);
  for (std::size_t i = 0; i < count; ++i) {
    const float size = outlier_step > 0 && i % outlier_step == 0 ? 20.0f : 1.0f;
    values[i] = size * static_cast<float>(random.normal()) + (size > 1 ? 30.0f : 0.0f);
  }
  return values;
}

struct Tokens {
  std::size_t width;
  Floats k, v;

  Tokens(Random& random, const CacheShape& shape, std::size_t count)
      : width(shape.kv_heads * shape.head_dim),
        k(random_floats(random, count * width, shape.head_dim)),
        v(random_floats(random, count * width)) {}
  void append(LayerCache& cache, std::size_t first, std::size_t end) const {
    cache.append(&k[first * width], &v[first * width], width, end - first);
  }
};

std::size_t packed_of(std::size_t tokens) {
  return tokens < 128 ? 0 : (tokens / 64 - 1) * 64;
}

/// Half a level, and what f16 makes of scale and bias.
double bound_of(double least, double most, int bits) {
  return 0.5 * (most - least) / (std::ldexp(1.0, bits) - 1) * (1 + 2 * kHalfEpsilon) +
         kHalfEpsilon * (std::abs(least) + most - least) + 0x1p-24;
}

void check_stored(const LayerCache& cache, const Tokens& in, const Decoded& out) {
  const std::size_t d = cache.shape().head_dim, tokens = cache.tokens();
  const int k_bits = packed_bits(cache.shape().format.keys),
            v_bits = packed_bits(cache.shape().format.values);
  for (std::size_t h = 0; h < cache.shape().kv_heads; ++h) {
    const auto key = [&](std::size_t t, std::size_t j) { return as_half(in.k[t * in.width + h * d + j]); };
    const auto value = [&](std::size_t t, std::size_t j) { return as_half(in.v[t * in.width + h * d + j]); };
    for (std::size_t t = 0; t < tokens; ++t) {
      for (std::size_t j = 0; j < d; ++j) {
        double k_bound = 0, v_bound = 0;
        if (t < out.packed && k_bits > 0) {
          double least = INFINITY, most = -INFINITY;
          for (std::size_t i = t / 64 * 64; i < t / 64 * 64 + 64; ++i) {
            least = std::min(least, key(i, j));
            most = std::max(most, key(i, j));
          }
          k_bound = bound_of(least, most, k_bits);
        }
        if (t < out.packed && v_bits > 0) {
          double least = INFINITY, most = -INFINITY;
          for (std::size_t i = j / 64 * 64; i < std::min(d, j / 64 * 64 + 64); ++i) {
            least = std::min(least, value(t, i));
            most = std::max(most, value(t, i));
          }
          v_bound = bound_of(least, most, v_bits);
        }
        ASSERT_NEAR(out.keys[(h * tokens + t) * d + j], key(t, j), k_bound) << t << " " << j;
        ASSERT_NEAR(out.values[(h * tokens + t) * d + j], value(t, j), v_bound) << t << " " << j;
      }
    }
  }
}

TEST(PackedCache, StoresWithinHalfALevelAndTheNewestInF16) {
  Random random(test::seed());
  for (const CacheStorage keys : kPacked) {
    for (const CacheFormat format :
         {CacheFormat(keys), CacheFormat(keys, CacheStorage::f16), CacheFormat(CacheStorage::f16, keys)}) {
      const CacheShape shape{2, 4 * (1 + random.below(40)), format};
      SCOPED_TRACE(testing::Message() << "bits " << packed_bits(keys) << " d " << shape.head_dim);
      const std::size_t tokens = 100 + random.below(500);
      const Tokens in(random, shape, tokens);
      LayerCache cache(shape);
      for (std::size_t at = 0; at < tokens;) {
        const std::size_t end = std::min(tokens, at + 1 + random.below(200));
        in.append(cache, at, end);
        cache.settle();
        at = end;
      }
      const Decoded out(cache);
      EXPECT_EQ(out.packed, packed_of(tokens));
      check_stored(cache, in, out);
    }
  }
}

/// Largest max|q|·(range of keys) of a channel: what rounding to digits is relative to (CacheRows).
double largest_contribution(const CacheShape& shape, std::size_t tokens, const Doubles& by_head,
                            const Decoded& stored) {
  const std::size_t d = shape.head_dim, queries = by_head.size() / d;
  double largest = 0;
  for (std::size_t j = 0; j < d; ++j) {
    double query = 0;
    for (std::size_t i = 0; i < queries; ++i) query = std::max(query, std::abs(by_head[i * d + j]));
    for (std::size_t h = 0; h < shape.kv_heads; ++h) {
      double least = INFINITY, most = -INFINITY;
      for (std::size_t t = 0; t < tokens; ++t) {
        least = std::min(least, stored.keys[(h * tokens + t) * d + j]);
        most = std::max(most, stored.keys[(h * tokens + t) * d + j]);
      }
      largest = std::max(largest, query * (most - least));
    }
  }
  return largest;
}

/// f32 arithmetic as in cache_attention_test.cpp; a key's level and bias are two terms, each up to twice as
/// large. A digit's rounding is off by up to 1/(2·16319) of the largest step, and meets up to half a range: n
/// of them have a standard deviation of √(n/3) times that, of which six are allowed. The 64 weights of a
/// chunk likewise.
double tolerance_of(const CacheShape& shape, double scale, std::size_t tokens, const Doubles& by_head,
                    const Decoded& stored) {
  const auto d = static_cast<double>(shape.head_dim);
  const double values = test::largest(stored.values), digit = 6 / (2 * 16319.0) / 2;
  const double rounding =
                   scale * test::largest(by_head) * test::largest(stored.keys) * d * 4 * test::kF32Epsilon,
               digits =
                   scale * largest_contribution(shape, tokens, by_head, stored) * std::sqrt(d / 3) * digit;
  return values * (4 * rounding + 2 * digits + 2 * std::sqrt(64 / 3.0) * digit + 128 * test::kF32Epsilon);
}

/// attend() against double attention over what the decoder above reads.
void check_attention(Random& random, const LayerCache& cache, std::size_t group, std::size_t queries) {
  const auto& [heads, d, format, window] = cache.shape();
  const std::size_t q_heads = heads * group, tokens = cache.tokens();
  const Floats q = random_floats(random, queries * q_heads * d);
  Floats y(queries * q_heads * d, std::numeric_limits<float>::quiet_NaN());
  AttentionMemory memory;
  const float scale = 0.3f / std::sqrt(static_cast<float>(d));
  attend(cache, {q.data(), q_heads * d, y.data(), queries, q_heads, scale, window}, memory);

  Decoded stored(cache);
  for (double& x : stored.keys) x = std::isnan(x) ? 0 : x;
  for (double& x : stored.values) x = std::isnan(x) ? 0 : x;
  Doubles by_head;
  for (std::size_t h = 0; h < q_heads; ++h) {
    for (std::size_t t = 0; t < queries; ++t) {
      for (std::size_t j = 0; j < d; ++j) by_head.push_back(q[(t * q_heads + h) * d + j]);
    }
  }
  const test::reference::AttentionShape shape{
      1, q_heads, heads, queries, tokens, d, d, static_cast<double>(scale), static_cast<int>(window)};
  const Doubles expected = test::reference::attention(shape, by_head, stored.keys, stored.values);
  const double tolerance = tolerance_of(cache.shape(), static_cast<double>(scale), tokens, by_head, stored);
  ASSERT_LT(tolerance, 0.05 * test::largest(stored.values));  // it says something
  for (std::size_t t = 0; t < queries; ++t) {
    for (std::size_t h = 0; h < q_heads; ++h) {
      for (std::size_t j = 0; j < d; ++j)
        ASSERT_NEAR(y[(t * q_heads + h) * d + j], expected[(h * queries + t) * d + j], tolerance)
            << "query " << t << " head " << h << " element " << j;
    }
  }
}

TEST(PackedCache, AttentionMatchesTheDoubleReference) {
  Random random(test::seed());
  for (const CacheStorage keys : kPacked) {
    for (int i = 0; i < 8; ++i) {
      const CacheStorage values = random.below(3) == 0 ? CacheStorage::f16 : kPacked[random.below(5)];
      const CacheFormat format = random.below(4) == 0 ? CacheFormat(values, keys) : CacheFormat(keys, values);
      const CacheShape shape{1 + random.below(3), 4 * (1 + random.below(34)), format,
                             random.below(2) * (1 + random.below(400))};
      const std::size_t tokens = 1 + random.below(1500);
      const std::size_t queries =
          std::min<std::size_t>(tokens, random.below(2) == 0 ? 1 : 1 + random.below(90));
      const std::size_t group = 1 + random.below(6);
      SCOPED_TRACE(testing::Message()
                   << "bits " << packed_bits(format.keys) << ", " << packed_bits(format.values) << " kv "
                   << shape.kv_heads << " group " << group << " d " << shape.head_dim << " tokens " << tokens
                   << " queries " << queries << " window " << shape.window);
      const Tokens in(random, shape, tokens);
      LayerCache cache(shape);
      in.append(cache, 0, tokens - queries);
      if (random.below(4) > 0) cache.settle();
      in.append(cache, tokens - queries, tokens);
      if (random.below(3) == 0) cache.settle();  // queries among packed tokens, too
      check_attention(random, cache, group, queries);
    }
  }
}

TEST(PackedCache, GoesBackAmongPackedTokens) {
  Random random(test::seed());
  for (const CacheFormat format : {CacheFormat(CacheStorage::packed3), CacheFormat(CacheStorage::packed8),
                                   CacheFormat(CacheStorage::packed4, CacheStorage::f16)}) {
    const CacheShape shape{2, 40, format};
    const Tokens in(random, shape, 700);
    LayerCache cache(shape);
    in.append(cache, 0, 700);
    cache.settle();
    const Decoded before(cache);
    const std::size_t bytes = cache.bytes();
    for (const std::size_t kept : {690, 577, 576, 449, 320, 63, 1, 0}) {
      cache.truncate(kept);
      ASSERT_EQ(cache.tokens(), kept);
      EXPECT_EQ(cache.bytes(), bytes);
      const Decoded after(cache);
      for (std::size_t h = 0; h < 2; ++h) {
        for (std::size_t i = 0; i < kept * 40; ++i) {
          const double key = before.keys[h * 700 * 40 + i], value = before.values[h * 700 * 40 + i];
          // Unpacked into f16, and rounded so at most eight times by now.
          ASSERT_NEAR(after.keys[h * kept * 40 + i], key, kHalfEpsilon * (std::abs(key) + 0x1p-10));
          ASSERT_NEAR(after.values[h * kept * 40 + i], value, kHalfEpsilon * (std::abs(value) + 0x1p-10));
        }
      }
    }
    in.append(cache, 0, 500);
    cache.settle();
    cache.truncate(300);
    in.append(cache, 300, 700);
    cache.settle();
    check_attention(random, cache, 2, 3);
  }
}

TEST(PackedCache, WindowsLetGoOfPages) {
  Random random(test::seed());
  for (const CacheStorage storage : {CacheStorage::f16, CacheStorage::packed4}) {
    const CacheShape shape{1, 32, storage, 100};
    const Tokens in(random, shape, 3000);
    LayerCache cache(shape);
    std::size_t most = 0;
    for (std::size_t t = 0; t < 3000; ++t) {
      in.append(cache, t, t + 1);
      cache.settle();
      most = std::max(most, cache.bytes());
    }
    // Window, slack and what is not yet a whole page, each at most one more page.
    EXPECT_LE(most, 4 * shape.page_bytes() + 128 * 32 * 2 * 2);
    check_attention(random, cache, 3, 2);
    cache.truncate(3000 - kCachePage);
    ASSERT_EQ(cache.tokens(), 3000 - kCachePage);
    check_attention(random, cache, 3, 1);
    cache.truncate(1000);
    EXPECT_EQ(cache.tokens(), 0u) << "what 1000 tokens see is gone";
    in.append(cache, 0, 700);
    cache.settle();
    ASSERT_EQ(cache.tokens(), 700u);
    check_attention(random, cache, 1, 40);
  }
}

TEST(PackedCache, BytesAreWhatTheFormatsSay) {
  const auto page = [](CacheFormat format) { return CacheShape{4, 64, format}.page_bytes(); };
  const std::size_t f16 = page(CacheStorage::f16);
  EXPECT_EQ(page(CacheStorage::packed4) * 32, f16 * 9);  // 4.5 bits
  EXPECT_EQ(page(CacheStorage::packed3) * 32, f16 * 7);  // 3.5
  EXPECT_EQ(page({CacheStorage::packed8, CacheStorage::f16}) * 64, f16 * (17 + 32));
  const CacheShape shape{4, 64, CacheStorage::packed4};
  LayerCache cache(shape);
  const Floats x(1024 * 256, 1.0f);
  cache.append(x.data(), x.data(), 256, 1024);
  cache.settle();
  EXPECT_EQ(cache.bytes(), 4 * shape.page_bytes() + 128 * 4 * 64 * 2 * 2);
}

/// A group of one value has no range; one with a value that is no number is none.
TEST(PackedCache, ConstantAndUndefinedGroups) {
  LayerCache cache({1, 32, CacheStorage::packed4});
  Floats k(128 * 32, 3.25f), v(128 * 32, -0.5f);
  k[5 * 32 + 7] = NAN;
  cache.append(k.data(), v.data(), 32, 128);
  cache.settle();
  const Decoded out(cache);
  ASSERT_EQ(out.packed, 64u);
  for (std::size_t i = 0; i < 64 * 32; ++i) {
    EXPECT_EQ(out.values[i], -0.5);
    EXPECT_TRUE(i % 32 == 7 ? std::isnan(out.keys[i]) : out.keys[i] == 3.25);
  }
}

TEST(PackedCache, RefusesFormatsThatDoNotGoTogether) {
  EXPECT_THROW(LayerCache({1, 32, {CacheStorage::packed4, CacheStorage::f32}}), std::invalid_argument);
  EXPECT_THROW(LayerCache({1, 32, {CacheStorage::int8, CacheStorage::packed3}}), std::invalid_argument);
}

/// What a cache stores, read back by the decoder above, to f16; the last tokens, fewer than a chunk, in f16.
TEST(RoundAsCached, GivesWhatACacheHolds) {
  Random random(test::seed());
  constexpr std::size_t kTokens = 64 * 4 + 17;
  for (const std::size_t d : {std::size_t{64}, std::size_t{80}}) {
    for (const CacheStorage storage : kPacked) {
      const CacheShape shape{.kv_heads = 1, .head_dim = d, .format = storage};
      const Tokens tokens(random, shape, kTokens);
      LayerCache cache(shape);
      tokens.append(cache, 0, kTokens);
      cache.settle();
      const Decoded decoded(cache);
      Floats keys(kTokens * d, NAN), values(kTokens * d, NAN);
      round_as_cached(CachePart::keys, storage, tokens.k.data(), kTokens, d, keys.data());
      round_as_cached(CachePart::values, storage, tokens.v.data(), kTokens, d, values.data());
      for (std::size_t i = 0; i < kTokens * d; ++i) {
        if (i >= decoded.packed * d && i < 64 * 4 * d) continue;  // the cache has not packed these yet
        const auto near = [](double x) { return kHalfEpsilon * std::abs(x) + 0x1p-24; };
        ASSERT_NEAR(keys[i], decoded.keys[i], near(decoded.keys[i])) << i;
        ASSERT_NEAR(values[i], decoded.values[i], near(decoded.values[i])) << i;
      }
    }
  }
}

/// By what a cache says of itself, fed token by token and in passes.
TEST(CacheShapes, KnowTheirBytes) {
  Random random(test::seed());
  for (const CacheFormat format :
       {CacheFormat(CacheStorage::f16), CacheFormat(CacheStorage::int8), CacheFormat(CacheStorage::packed4),
        CacheFormat(CacheStorage::f16, CacheStorage::packed3)}) {
    const CacheShape shape{.kv_heads = 2, .head_dim = 64, .format = format};
    const Tokens tokens(random, shape, 1200);
    for (const std::size_t pass : {1, 100, 600}) {
      LayerCache cache(shape);
      for (std::size_t first = 0; first + pass <= 1200; first += pass) {
        const std::size_t before = cache.bytes();
        tokens.append(cache, first, first + pass);
        EXPECT_LE(cache.bytes(), std::max(before, shape.bytes(first + pass)) + shape.pass_bytes(pass));
        cache.settle();
        ASSERT_EQ(cache.bytes(), shape.bytes(first + pass)) << first + pass;
      }
    }
  }
}

}  // namespace
}  // namespace optiq::kernels::cpu
