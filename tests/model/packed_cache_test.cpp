// A packed KV cache of MLX arrays: what is stored, read bit by bit, and attention over it against scalar
// double.
#include "src/model/packed_cache.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "optiq/base/half.h"
#include "optiq/kernels/groups.h"
#include "src/model/packed_attention.h"
#include "support/arrays.h"
#include "support/model_folder.h"
#include "support/seed.h"
#include "support/tiny_model.h"

namespace optiq::model {
namespace {

using kernels::cpu::CacheFormat;
using kernels::cpu::CachePart;
using kernels::cpu::CacheStorage;
using test::close;
using test::Doubles;
using test::kF32Epsilon;
using test::largest;
using test::values;

constexpr CacheStorage kPacked[] = {CacheStorage::packed3, CacheStorage::packed4, CacheStorage::packed5,
                                    CacheStorage::packed6, CacheStorage::packed8};
constexpr CacheStorage kStorages[] = {CacheStorage::packed3, CacheStorage::packed4, CacheStorage::packed5,
                                      CacheStorage::packed6, CacheStorage::packed8, CacheStorage::f16};
constexpr double kHalfEpsilon = 0x1p-11;

struct Sizes {
  int batch = 1, kv_heads = 1, group = 1, d = 64;
};

CacheStorage any_storage(Random& random) {
  return kStorages[random.below(std::size(kStorages))];
}

CacheFormat any_packed_format(Random& random) {
  const CacheStorage packed = kPacked[random.below(std::size(kPacked))];
  return random.below(2) == 0 ? CacheFormat(packed, any_storage(random))
                              : CacheFormat(any_storage(random), packed);
}

LayerCache empty_cache(CacheFormat format) {
  LayerCache cache;
  cache.format = format;
  return cache;
}

/// Keys with a channel much larger than the others and far from 0, as models have them.
KeysValues random_tokens(Random& random, const Sizes& sizes, int tokens) {
  const mx::Shape shape{sizes.batch, sizes.kv_heads, tokens, sizes.d};
  const mx::array channel = mx::remainder(mx::arange(sizes.d), mx::array(16));
  const mx::array keys = test::random_array(random, shape);
  const mx::array shifted = mx::subtract(mx::multiply(keys, mx::array(5.0f)), mx::array(30.0f));
  return {mx::where(mx::equal(channel, mx::array(3)), shifted, keys), test::random_array(random, shape)};
}

/// Fills without attention, `step` tokens at a time.
void fill(LayerCache& cache, const KeysValues& tokens, int step) {
  const mx::Shape shape = tokens.keys.shape();
  for (int begin = 0; begin < shape[2]; begin += step) {
    const int end = std::min(shape[2], begin + step);
    const auto part = [&](const mx::array& x) {
      return mx::astype(mx::slice(x, {0, 0, begin, 0}, {shape[0], shape[1], end, shape[3]}), mx::float16);
    };
    append_packed(cache, {part(tokens.keys), part(tokens.values)}, 0);
    settle(cache);
    mx::eval(cache.arrays());
  }
}

/// Evaluated arrays as plain numbers.
struct Words {
  std::vector<std::uint32_t> levels;
  Doubles elements, scales, biases;

  explicit Words(const CachePages& pages) {
    if (pages.elements.size() == 0) return;
    if (pages.elements.dtype() == mx::float16) {
      elements = values(pages.elements);
      return;
    }
    mx::array words = mx::contiguous(pages.elements);
    words.eval();
    levels.assign(words.data<std::uint32_t>(), words.data<std::uint32_t>() + words.size());
    scales = values(pages.scales);
    biases = values(pages.biases);
  }

  /// Element `index` of the row-major array of values, whose groups of 64 lie along its last axis.
  [[nodiscard]] double at(std::size_t index, int bits) const {
    if (bits == 0) return elements[index];
    double level = 0;
    for (std::size_t b = 0; b < static_cast<std::size_t>(bits); ++b) {
      const std::size_t bit = index * static_cast<std::size_t>(bits) + b;
      if ((levels[bit / 32] >> (bit % 32) & 1) != 0) level += std::ldexp(1.0, static_cast<int>(b));
    }
    return level * scales[index / 64] + biases[index / 64];
  }
};

/// What a cache holds: [batch · kv_heads][tokens][d]; NaN for what was let go of.
struct Decoded {
  Doubles keys, values;

  Decoded(const LayerCache& cache, const Sizes& sizes) {
    const Words key_words(cache.key_pages), value_words(cache.value_pages);
    const Doubles recent_keys = cache.rows() == 0 ? Doubles{} : test::values(cache.keys),
                  recent_values = cache.rows() == 0 ? Doubles{} : test::values(cache.values);
    const auto d = static_cast<std::size_t>(sizes.d);
    const auto matrices = static_cast<std::size_t>(sizes.batch * sizes.kv_heads);
    const auto capacity = cache.rows() == 0 ? 0 : static_cast<std::size_t>(cache.keys.shape(2));
    for (std::size_t m = 0; m < matrices; ++m) {
      for (int t = 0; t < cache.tokens; ++t) {
        for (std::size_t j = 0; j < d; ++j) {
          if (t < cache.released) {
            keys.push_back(NAN);
            values.push_back(NAN);
          } else if (t < cache.packed) {
            const auto token = static_cast<std::size_t>(t - cache.released);
            const std::size_t matrix = token / 256 * matrices + m, slot = token % 256;
            keys.push_back(
                key_words.at((matrix * d + j) * 256 + slot, kernels::cpu::packed_bits(cache.format->keys)));
            values.push_back(value_words.at((matrix * 256 + slot) * d + j,
                                            kernels::cpu::packed_bits(cache.format->values)));
          } else {
            const std::size_t index = (m * capacity + static_cast<std::size_t>(t - cache.packed)) * d + j;
            keys.push_back(recent_keys[index]);
            values.push_back(recent_values[index]);
          }
        }
      }
    }
  }
};

/// [matrices][a tokens + b tokens][d].
Doubles joined(const Doubles& a, const mx::array& b, const Sizes& sizes) {
  const Doubles behind = values(mx::astype(b, mx::float16));
  const auto matrices = static_cast<std::size_t>(sizes.batch * sizes.kv_heads);
  Doubles all;
  for (std::size_t m = 0; m < matrices; ++m) {
    const auto part = [&](const Doubles& x) {
      const auto size = static_cast<std::ptrdiff_t>(x.size() / matrices);
      const auto begin = x.begin() + static_cast<std::ptrdiff_t>(m) * size;
      all.insert(all.end(), begin, begin + size);
    };
    part(a);
    part(behind);
  }
  return all;
}

/// One query over the keys that it sees.
void attend_one(const double* q, const double* k, const double* v, int d, int first, int last, double scale,
                double* y) {
  Doubles weights;
  double most = -INFINITY, sum = 0;
  for (int s = first; s <= last; ++s) {
    double score = 0;
    for (int j = 0; j < d; ++j) score += q[j] * k[s * d + j];
    weights.push_back(scale * score);
    most = std::max(most, weights.back());
  }
  for (double& w : weights) sum += w = std::exp(w - most);
  for (int s = first; s <= last; ++s)
    for (int j = 0; j < d; ++j) y[j] += weights[static_cast<std::size_t>(s - first)] / sum * v[s * d + j];
}

/// q [batch][kv_heads · group][queries][d], the last tokens of keys and values.
Doubles reference(const Doubles& q, const Doubles& k, const Doubles& v, const Sizes& sizes, int tokens,
                  int queries, double scale, int window) {
  Doubles y(q.size(), 0.0);
  const int heads = sizes.batch * sizes.kv_heads * sizes.group, d = sizes.d;
  for (int h = 0; h < heads; ++h) {
    const std::size_t matrix =
        static_cast<std::size_t>(h / sizes.group) * static_cast<std::size_t>(tokens * d);
    for (int t = 0; t < queries; ++t) {
      const std::size_t row = static_cast<std::size_t>((h * queries + t) * d);
      const int last = tokens - queries + t, first = window > 0 ? std::max(0, last - window + 1) : 0;
      attend_one(&q[row], &k[matrix], &v[matrix], d, first, last, scale, &y[row]);
    }
  }
  return y;
}

double largest_finite(const Doubles& x) {
  double most = 0;
  for (const double value : x)
    if (!std::isnan(value)) most = std::max(most, std::abs(value));
  return most;
}

/// A score is a sum of d products with keys that are level·scale + bias, neither beyond three times the
/// largest key: its error is at most (d + 4) roundings of 3·scale·Σ|q|·max|k|, once more for the largest. An
/// output then errs by twice that, and by one rounding a key, of the largest value (thrice likewise).
///
/// On a GPU, queries, keys, weights and results of a long pass are f16: a score errs by three of its
/// roundings (that of the scaled query too), twice, an output by three more.
double tolerance(const Doubles& q, const Doubles& k, const Doubles& v, const Sizes& sizes, int tokens,
                 int queries, double scale) {
  const int d = sizes.d;
  double most = 0;
  for (std::size_t row = 0; row < q.size(); row += static_cast<std::size_t>(d)) {
    double sum = 0;
    for (std::size_t j = 0; j < static_cast<std::size_t>(d); ++j) sum += std::abs(q[row + j]);
    most = std::max(most, sum);
  }
  const double score = 3 * scale * most * largest_finite(k);
  const double bound = (4 * (d + 4) * score + 3 * (tokens + 20)) * kF32Epsilon;
  const bool in_half = queries >= kWideTokens && mx::default_device() != mx::Device::cpu;
  return (bound + (in_half ? (6 * score + 9) * kHalfEpsilon : 0)) * largest_finite(v);
}

/// attend() in other room.
mx::array attend_within(LayerCache& cache, const mx::array& q, const KeysValues& fresh, float scale,
                        int window, AttentionRoom room) {
  append_packed(cache, {mx::astype(fresh.keys, mx::float16), mx::astype(fresh.values, mx::float16)}, window);
  const mx::array mixed = attend_packed(cache, q, scale, window, room);
  settle(cache);
  return mixed;
}

/// A pass over the cache, checked.
void check_pass(LayerCache& cache, Random& random, const Sizes& sizes, int count, int window,
                std::optional<AttentionRoom> room = {}) {
  const KeysValues fresh = random_tokens(random, sizes, count);
  const mx::array q = test::random_array(random, {sizes.batch, sizes.kv_heads * sizes.group, count, sizes.d});
  const Decoded before(cache, sizes);
  const Doubles k = joined(before.keys, fresh.keys, sizes), v = joined(before.values, fresh.values, sizes);
  const float scale = 1 / std::sqrt(static_cast<float>(sizes.d));
  const mx::array mixed =
      room ? attend_within(cache, q, fresh, scale, window, *room) : attend(cache, q, fresh, scale, window);
  const Doubles queries = values(q);
  ASSERT_TRUE(close(mixed, reference(queries, k, v, sizes, cache.tokens, count, scale, window),
                    tolerance(queries, k, v, sizes, cache.tokens, count, scale)))
      << cache.tokens << " tokens, " << cache.packed << " packed, window " << window << ", bits "
      << kernels::cpu::packed_bits(cache.format->keys) << " and "
      << kernels::cpu::packed_bits(cache.format->values);
  mx::eval(cache.arrays());
}

TEST(Groups, AreAsNearAsTheirBitsAllow) {
  Random random(test::seed());
  for (const int bits : {3, 4, 5, 6, 8}) {
    // Groups about 0, all below and all above it, of one value, and of tiny ones.
    const mx::array shift = mx::reshape(mx::array({0.0f, -40.0f, 40.0f, 3.0f, 0.0f}), {5, 1, 1});
    const mx::array size = mx::reshape(mx::array({1.0f, 2.0f, 0.5f, 0.0f, 1e-6f}), {5, 1, 1});
    const mx::array x = mx::reshape(
        mx::astype(mx::add(mx::multiply(test::random_array(random, {5, 3, 64}), size), shift), mx::float16),
        {5, 192});
    const kernels::PackedGroups groups = kernels::quantize_groups(x, bits);
    EXPECT_EQ(groups.levels.shape(), (mx::Shape{5, 6 * bits}));
    CachePages pages{groups.levels, groups.scales, groups.biases};
    const Words words(pages);
    const Doubles exact = values(x), unpacked = values(kernels::dequantize_groups(groups, bits));
    for (std::size_t g = 0; g < 15; ++g) {
      const auto [least, most] = std::minmax_element(exact.begin() + g * 64, exact.begin() + g * 64 + 64);
      const double range = *most - *least, step = range / ((1 << bits) - 1);
      // Half a step, and what f16 (down to its smallest 2^-24) makes of the least value and of all steps.
      const double bound = step / 2 + kHalfEpsilon * (2 * range + std::abs(*least)) + (1 << bits) * 0x1p-24;
      for (std::size_t i = g * 64; i < g * 64 + 64; ++i) {
        EXPECT_NEAR(words.at(i, bits), exact[i], bound) << bits << " bits, group " << g;
        EXPECT_NEAR(unpacked[i], words.at(i, bits), 4 * kF32Epsilon * (std::abs(*least) + 2 * range));
      }
    }
  }
}

TEST(Groups, RefuseWhatIsNoGroup) {
  EXPECT_THROW((void)kernels::quantize_groups(mx::zeros({2, 64}), 4), std::invalid_argument);
  EXPECT_THROW((void)kernels::quantize_groups(mx::zeros({2, 96}, mx::float16), 4), std::invalid_argument);
}

TEST(Groups, WithoutANumberHaveNone) {
  const mx::array places = mx::reshape(mx::arange(128), {2, 64});
  const mx::array x =
      mx::where(mx::equal(places, mx::array(5)), mx::array(NAN, mx::float16), mx::ones({2, 64}, mx::float16));
  const Doubles found = values(kernels::dequantize_groups(kernels::quantize_groups(x, 4), 4));
  for (std::size_t i = 0; i < 128; ++i) EXPECT_EQ(std::isnan(found[i]), i < 64);
}

/// The same values as the engine's cache, but for the engine's last rounding to f16.
TEST(PackedCache, HoldsWhatTheEngineWouldHold) {
  if (mx::default_device() != mx::Device::cpu) GTEST_SKIP() << "a GPU may round a level's tie otherwise";
  Random random(test::seed());
  for (const CacheStorage storage : kPacked) {
    const Sizes sizes{.d = 128};
    const KeysValues tokens = random_tokens(random, sizes, 640);
    LayerCache cache = empty_cache(storage);
    fill(cache, tokens, 200);
    EXPECT_EQ(cache.packed, 576);
    const Decoded held(cache, sizes);
    for (const CachePart part : {CachePart::keys, CachePart::values}) {
      const Doubles exact = values(part == CachePart::keys ? tokens.keys : tokens.values);
      std::vector<float> x(exact.begin(), exact.end()), y(x.size());
      kernels::cpu::round_as_cached(part, storage, x.data(), 640, 128, y.data());
      const Doubles& ours = part == CachePart::keys ? held.keys : held.values;
      for (std::size_t i = 0; i < 576 * 128; ++i)
        ASSERT_NEAR(ours[i], y[i], kHalfEpsilon * std::abs(y[i]) + 0x1p-24) << i;
    }
  }
}

TEST(PackedCache, AttendsToWhatItHolds) {
  Random random(test::seed());
  for (int round = 0; round < 12; ++round) {
    const Sizes sizes{1 + static_cast<int>(random.below(2)), 1 + static_cast<int>(random.below(2)),
                      1 + static_cast<int>(random.below(3)), random.below(3) == 0 ? 128 : 64};
    LayerCache cache = empty_cache(any_packed_format(random));
    const int borders[] = {1, 1, 62, 63, 64, 65, 127, 128, 129, 300};
    while (cache.tokens < 700 && !testing::Test::HasFatalFailure())
      check_pass(cache, random, sizes, borders[random.below(std::size(borders))], 0);
    EXPECT_GT(cache.packed, 500);
  }
}

TEST(PackedCache, EveryWidthOfKeysAndOfValues) {
  Random random(test::seed());
  const Sizes sizes{.kv_heads = 2, .group = 2};
  for (const CacheStorage storage : kPacked) {
    for (const CacheFormat format : {CacheFormat(storage), CacheFormat(storage, CacheStorage::f16),
                                     CacheFormat(CacheStorage::f16, storage)}) {
      LayerCache cache = empty_cache(format);
      for (const int count : {200, 1, 130, 1}) check_pass(cache, random, sizes, count, 0);
    }
  }
  LayerCache narrow = empty_cache({CacheStorage::packed4, CacheStorage::f16});
  for (const int count : {200, 1}) check_pass(narrow, random, {.d = 32}, count, 0);
}

TEST(PackedCache, PacksOnceAndKeepsTheNewestInF16) {
  Random random(test::seed());
  const Sizes sizes;
  LayerCache cache = empty_cache(CacheStorage::packed4);
  const KeysValues tokens = random_tokens(random, sizes, 400);
  const auto one = [&](const mx::array& x, int t) { return mx::slice(x, {0, 0, t, 0}, {1, 1, t + 1, 64}); };
  Decoded before(cache, sizes);
  for (int t = 0; t < 400; ++t) {
    fill(cache, {one(tokens.keys, t), one(tokens.values, t)}, 1);
    const int recent = cache.tokens - cache.packed;
    EXPECT_EQ(cache.packed % 64, 0);
    EXPECT_TRUE(cache.tokens < 128 ? cache.packed == 0 : recent >= 64 && recent < 128);
    const Decoded now(cache, sizes);
    const int kept = std::min(cache.packed, t - 130);
    for (int i = 0; i < kept * 64; ++i) ASSERT_EQ(now.keys[i], before.keys[i]) << t;
    before = now;
  }
}

TEST(PackedCache, SlidesAndLetsGo) {
  Random random(test::seed());
  for (const int window : {1, 5, 64, 70, 200, 300}) {
    const Sizes sizes{1 + static_cast<int>(random.below(2)), 1, 2};
    LayerCache cache = empty_cache(any_packed_format(random));
    while (cache.tokens < 1500 && !testing::Test::HasFatalFailure()) {
      check_pass(cache, random, sizes, 1 + static_cast<int>(random.below(180)), window);
      EXPECT_LE(cache.key_pages.elements.shape(0), (window + 180 + 3 * 256 + 255) / 256);
    }
    EXPECT_GT(cache.released, 500);
  }
}

/// A pass of so many tokens, in its own room or the default.
struct RoomyPass {
  int tokens = 0;
  std::optional<AttentionRoom> room = {};
};

/// Passes one after another behind 1,500 tokens, with and without a window, in two formats.
void check_passes(const Sizes& sizes, const std::vector<RoomyPass>& passes) {
  Random random(test::seed());
  for (const int window : {0, 700}) {
    for (const CacheFormat format : {CacheFormat(CacheStorage::packed4, CacheStorage::packed3),
                                     CacheFormat(CacheStorage::f16, CacheStorage::packed5)}) {
      LayerCache cache = empty_cache(format);
      fill(cache, random_tokens(random, sizes, 1500), 512);
      for (const RoomyPass& pass : passes) check_pass(cache, random, sizes, pass.tokens, window, pass.room);
    }
  }
}

TEST(PackedCache, ShortPassesGoInTiles) {
  // Two pages a tile, one, and as many as there are.
  check_passes({.batch = 2, .kv_heads = 2, .group = 2}, {{60, AttentionRoom{.scores = 2 * 60 * 8 * 256}},
                                                         {3, AttentionRoom{.scores = 1}},
                                                         {3, AttentionRoom{.scores = 1 << 16}},
                                                         {1}});
}

TEST(PackedCache, LongPassesUnpackSomeHeadsAtATime) {
  // One head, two and then one, all.
  check_passes({.batch = 2, .kv_heads = 3, .group = 2},
               {{80, AttentionRoom{.unpacked_bytes = 1}},
                {64, AttentionRoom{.unpacked_bytes = 2 * 16 * 2 * 2000 * 64}},
                {100}});
}

TEST(PackedCache, GoesBack) {
  Random random(test::seed());
  for (int round = 0; round < 8; ++round) {
    const Sizes sizes{.kv_heads = 2};
    LayerCache cache = empty_cache(any_packed_format(random));
    fill(cache, random_tokens(random, sizes, 700), 300);
    const Decoded before(cache, sizes);
    const int tokens = round == 0 ? 0 : round == 1 ? 128 : static_cast<int>(random.below(700));
    truncate(cache, tokens);
    mx::eval(cache.arrays());
    EXPECT_EQ(cache.tokens, tokens);
    const Decoded after(cache, sizes);
    for (std::size_t h = 0; h < 2; ++h) {
      for (std::size_t i = 0; i < static_cast<std::size_t>(tokens) * 64; ++i) {
        const double was = before.keys[h * 700 * 64 + i];
        ASSERT_NEAR(after.keys[h * static_cast<std::size_t>(tokens) * 64 + i], was,
                    kHalfEpsilon * std::abs(was) + 0x1p-24);
      }
    }
    for (const int count : {1, 200, 1}) check_pass(cache, random, sizes, count, 0);
  }
}

/// The planner counts what the engine allocates (CacheShape::bytes); so much is held here, too.
TEST(PackedCache, TakesWhatThePlannerCounts) {
  Random random(test::seed());
  for (int round = 0; round < 10; ++round) {
    const Sizes sizes{.kv_heads = 2, .d = random.below(2) == 0 ? 64 : 128};
    const CacheFormat format = any_packed_format(random);
    LayerCache cache = empty_cache(format);
    const int total = 1 + static_cast<int>(random.below(1200));
    fill(cache, random_tokens(random, sizes, total), 1 + static_cast<int>(random.below(512)));
    const kernels::cpu::CacheShape shape{2, static_cast<std::size_t>(sizes.d), format};
    EXPECT_EQ(cache.bytes(), shape.bytes(static_cast<std::size_t>(total))) << total;
  }
}

/// A decoding step takes no copy of the cache: not half of what the keys alone take in f16.
TEST(PackedCache, DecodingTakesNoDequantizedCopy) {
  Random random(test::seed());
  const Sizes sizes{.kv_heads = 4, .d = 128};
  LayerCache cache = empty_cache(CacheStorage::packed4);
  fill(cache, random_tokens(random, sizes, 8192), 512);
  for (int step = 0; step < 3; ++step) {
    const KeysValues fresh = random_tokens(random, sizes, 1);
    const mx::array q = test::random_array(random, {1, 4, 1, 128});
    mx::eval(fresh.keys, fresh.values);
    mx::clear_cache();
    mx::reset_peak_memory();
    const std::size_t before = mx::get_active_memory();
    mx::eval(attend(cache, q, fresh, 0.1f, 0));
    mx::eval(cache.arrays());
    ASSERT_GT(mx::get_peak_memory(), before);
    EXPECT_LT(mx::get_peak_memory() - before, 8192u * 4 * 128 * 2 / 2);
  }
}

/// Nor does a long pass, but for a head at a time.
TEST(PackedCache, LongPassesTakeNoDequantizedCopy) {
  Random random(test::seed());
  const Sizes sizes{.kv_heads = 16};
  LayerCache cache = empty_cache(CacheStorage::packed4);
  fill(cache, random_tokens(random, sizes, 8192), 512);
  const KeysValues fresh = random_tokens(random, sizes, 64);
  const mx::array q = test::random_array(random, {1, 16, 64, 64});
  mx::eval(fresh.keys, fresh.values, q);
  mx::clear_cache();
  mx::reset_peak_memory();
  const std::size_t before = mx::get_active_memory();
  mx::eval(attend_within(cache, q, fresh, 0.1f, 0, {.unpacked_bytes = 1}));
  ASSERT_GT(mx::get_peak_memory(), before);
  EXPECT_LT(mx::get_peak_memory() - before, 8192u * 16 * 64 * 2 * 2 / 2);
}

TEST(PackedCache, RefusesFormatsThatDoNotFit) {
  using enum CacheStorage;
  const auto refused = [](CacheFormat format, std::int64_t head_dim) {
    const Status status = check_cache_format(format, head_dim);
    return status ? std::string() : status.error().message;
  };
  for (const CacheFormat format :
       {CacheFormat(f16), CacheFormat(bf16), CacheFormat(f32), CacheFormat(packed5)})
    EXPECT_EQ(refused(format, 128), "");
  EXPECT_EQ(refused(f16, 80), "");
  EXPECT_EQ(refused({packed4, f16}, 96), "");
  EXPECT_NE(refused({f16, packed4}, 96).find("multiple of 64, got 96"), std::string::npos);
  EXPECT_NE(refused({packed4, f16}, 80).find("multiple of 32, got 80"), std::string::npos);
  EXPECT_NE(refused(int8, 64).find("int8"), std::string::npos);
  EXPECT_NE(refused({packed4, f32}, 64).find("packed or f16"), std::string::npos);
  LayerCache cache = empty_cache(packed4);
  Random random(1);
  fill(cache, random_tokens(random, {}, 3), 3);
  EXPECT_THROW((void)attend(cache, mx::zeros({2, 1, 1, 64}), random_tokens(random, {.batch = 2}, 1), 1, 0),
               std::invalid_argument);
}

/// Logits [tokens, vocabulary] of passes of up to 90 tokens over a cache.
mx::array logits_over(const Model& model, const mx::array& tokens, std::vector<CacheFormat> formats) {
  KvCache cache = model.make_cache(formats);
  std::vector<mx::array> parts;
  for (int begin = 0; begin < tokens.shape(1); begin += 90) {
    const int end = std::min(tokens.shape(1), begin + 90);
    parts.push_back(model.forward(mx::slice(tokens, {0, begin}, {tokens.shape(0), end}), {.cache = &cache}));
    EXPECT_TRUE(evaluate({parts.back()}));
  }
  return mx::concatenate(parts, 1);
}

double distance(const mx::array& a, const mx::array& b) {
  return test::norm(values(mx::subtract(a, b))) / test::norm(values(b));
}

TEST(PackedCache, ModelsAnswerAsWithF16) {
  Random random(test::seed());
  // On a GPU the activations are the weights' bf16, whose rounding alone makes 1 to 2 %.
  const double noise = mx::default_device() == mx::Device::cpu ? 0 : 0.03;
  for (const char* name : {"llama", "mistral-window"}) {
    const Model model = test::wide_model(name, random);
    const mx::array tokens = test::random_indices(random, {2, 500}, 64);
    const auto over = [&](CacheFormat format) { return logits_over(model, tokens, {format, format}); };
    const mx::array exact = logits_over(model, tokens, {}), f16 = over(CacheStorage::f16);
    EXPECT_LT(distance(f16, exact), 1e-3 + noise);
    EXPECT_LT(distance(over(CacheStorage::f32), exact), 1e-5 + noise);
    EXPECT_LT(distance(over(CacheStorage::bf16), exact), 1e-2 + noise);
    const double at_eight = distance(over(CacheStorage::packed8), f16);
    EXPECT_LT(at_eight, 1e-2 + noise) << name;
    const double at_three = distance(over(CacheStorage::packed3), f16);
    // Steps are 36 times as large; a window of 7 sees the newest tokens only, which are not packed.
    if (model.config().window(0) == 0) {
      EXPECT_GT(at_three, 5 * at_eight) << name;
    } else {
      EXPECT_LT(at_three, 1e-4 + noise) << name;
    }
  }
}

TEST(PackedCache, FormatsAreOfEveryBlock) {
  Random random(1);
  const Model model = test::wide_model("llama", random);
  EXPECT_THROW((void)model.make_cache({CacheStorage::f16}), std::invalid_argument);
  EXPECT_THROW((void)model.make_cache({CacheStorage::f16, CacheStorage::int8}), std::invalid_argument);
  const KvCache cache = model.make_cache({CacheStorage::f16, {CacheStorage::packed4, CacheStorage::packed3}});
  EXPECT_FALSE(cache[0].is_packed());
  EXPECT_EQ(cache[1].format->values, CacheStorage::packed3);
  const Model narrow = test::golden_model("llama");
  EXPECT_THROW((void)narrow.make_cache({CacheStorage::packed4, CacheStorage::packed4}),
               std::invalid_argument);
}

}  // namespace
}  // namespace optiq::model
