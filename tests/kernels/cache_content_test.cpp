// A cache's content, taken out and put into another cache, which then goes on to the bit as the first does.
#include <gtest/gtest.h>

#include <algorithm>

#include "optiq/base/random.h"
#include "optiq/kernels/kv_cache.h"
#include "support/contains.h"
#include "support/seed.h"

namespace optiq::kernels::cpu {
namespace {

using Floats = std::vector<float>;
using Bytes = std::vector<std::byte>;
using enum CacheStorage;

constexpr CacheFormat kFormats[] = {f32,
                                    f16,
                                    bf16,
                                    int8,
                                    packed3,
                                    packed4,
                                    packed5,
                                    packed6,
                                    packed8,
                                    {packed3, packed8},
                                    {f16, packed4},
                                    {packed6, f16}};

/// Content that owns its bytes.
struct Content {
  explicit Content(const LayerCache& cache)
      : tokens(cache.tokens()), keys(cache.recent(CachePart::keys)), values(cache.recent(CachePart::values)) {
    for (const auto page : cache.held_pages()) pages.insert(pages.end(), page.begin(), page.end());
  }
  [[nodiscard]] CacheContent view() const { return {tokens, pages, keys, values}; }

  std::size_t tokens;
  Bytes pages, keys, values;
};

class Stream {
 public:
  Stream(Random& random, const CacheShape& shape)
      : random_(random), width_(shape.kv_heads * shape.head_dim) {}

  /// The same random tokens to all caches, in one pass.
  void append(std::initializer_list<LayerCache*> caches, std::size_t tokens) {
    const Floats keys = some(tokens * width_), values = some(tokens * width_);
    for (LayerCache* cache : caches) {
      cache->append(keys.data(), values.data(), width_, tokens);
      cache->settle();
    }
  }
  Floats some(std::size_t count) {
    Floats x(count);
    for (float& value : x) value = static_cast<float>(random_.normal());
    return x;
  }

 private:
  Random& random_;
  std::size_t width_;
};

Floats attended(const LayerCache& cache, const Floats& q, std::size_t queries) {
  const std::size_t heads = 2 * cache.shape().kv_heads, width = heads * cache.shape().head_dim;
  Floats y(queries * width, NAN);
  AttentionMemory memory;
  attend(cache, {q.data(), width, y.data(), queries, heads, 0.3f, cache.shape().window}, memory);
  return y;
}

void expect_same(Stream& stream, const LayerCache& a, const LayerCache& b) {
  ASSERT_EQ(a.tokens(), b.tokens());
  const std::size_t queries = std::min<std::size_t>(a.tokens(), 3);
  const Floats q = stream.some(queries * 2 * a.shape().kv_heads * a.shape().head_dim);
  const Floats expected = attended(a, q, queries);
  EXPECT_TRUE(std::none_of(expected.begin(), expected.end(), [](float x) { return std::isnan(x); }));
  ASSERT_EQ(attended(b, q, queries), expected);
}

TEST(CacheContents, GoOnInAnotherCache) {
  Random random(test::seed());
  for (const CacheFormat format : kFormats) {
    for (const std::size_t tokens : {1, 63, 64, 127, 128, 191, 192, 255, 256, 257, 383, 384, 512, 700}) {
      const CacheShape shape{1 + random.below(2), 4 * (1 + random.below(30)), format,
                             random.below(2) * (1 + random.below(200))};
      SCOPED_TRACE(testing::Message() << packed_bits(format.keys) << "/" << packed_bits(format.values) << ", "
                                      << tokens << " tokens, window " << shape.window);
      Stream stream(random, shape);
      LayerCache first(shape);
      for (std::size_t left = tokens; left > 0;) {
        const std::size_t pass = 1 + random.below(std::min<std::size_t>(left, 512));
        stream.append({&first}, pass);
        left -= pass;
      }
      if (random.below(3) == 0) first.truncate(tokens - std::min<std::size_t>(tokens - 1, random.below(150)));
      if (first.tokens() == 0) continue;
      const Content content(first);
      auto second = LayerCache::restored(shape, content.view());
      ASSERT_TRUE(second) << second.error().message;
      expect_same(stream, first, *second);
      for (const std::size_t pass : {1, 1, 70, 1, 130, 300}) {
        stream.append({&first, &*second}, pass);
        expect_same(stream, first, *second);
      }
      first.truncate(first.tokens() - 100);
      second->truncate(second->tokens() - 100);
      expect_same(stream, first, *second);
    }
  }
}

TEST(CacheContents, ThatDoNotFitAreRefused) {
  Random random(test::seed());
  const CacheShape shape{2, 32, packed4, 300};
  Stream stream(random, shape);
  LayerCache cache(shape);
  for (int i = 0; i < 10; ++i) stream.append({&cache}, 130);
  const Content good(cache);
  ASSERT_TRUE(LayerCache::restored(shape, good.view()));
  ASSERT_LT(good.pages.size(), (1300 - 64) / 256 * shape.page_bytes()) << "some were let go of";
  const auto refused = [&](const CacheShape& as, const CacheContent& content, const char* mentions) {
    const auto restored = LayerCache::restored(as, content);
    ASSERT_FALSE(restored) << mentions;
    EXPECT_EQ(restored.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(test::contains(restored.error().message, mentions)) << restored.error().message;
  };
  const auto with = [&](const auto& change) {
    CacheContent content = good.view();
    change(content);
    return content;
  };
  const std::size_t page = shape.page_bytes(), row = std::size_t{2} * 32 * 2;
  refused(shape, with([](auto& c) { c.tokens += 1; }), "multiple of 64");
  refused(shape, with([](auto& c) { c.tokens = 3; }), "recent of 3 tokens");
  refused(shape, with([](auto& c) { c.pages = c.pages.first(c.pages.size() - 1); }), "pages");
  refused(shape, with([&](auto& c) { c.pages = c.pages.subspan(2 * page); }), "at least");
  refused(shape, with([](auto& c) { c.recent_keys = c.recent_keys.subspan(1); }), "128 a token");
  refused(shape, with([&](auto& c) { c.recent_values = c.recent_values.subspan(row); }), "128 a token");
  refused(shape, with([&](auto& c) { c.tokens -= 1024; }), "at most");
  CacheShape whole = shape;
  whole.window = 0;
  refused(whole, good.view(), "at least");
  refused({2, 32, f16}, good.view(), "not packed");
  const Bytes much(128 * row);
  refused(shape, {128, {}, much, much}, "fewer than 128");
}

/// Passes of random lengths: no more than was said, and not much less.
TEST(CacheShapes, KnowTheMostThatAWindowKeeps) {
  Random random(test::seed());
  for (const CacheFormat format : {CacheFormat(f16), CacheFormat(int8), CacheFormat(packed4, packed3)}) {
    for (const std::size_t window : {1, 100, 256, 700}) {
      for (const std::size_t pass : {1, 64, 512}) {
        const CacheShape shape{1, 16, format, window};
        Stream stream(random, shape);
        LayerCache cache(shape);
        std::size_t most = 0;
        for (int round = 0; round < 2; ++round) {
          while (cache.tokens() < 5000) {
            stream.append({&cache}, random.below(4) == 0 ? 1 + random.below(pass) : pass);
            ASSERT_LE(cache.bytes(), shape.most_bytes(5600, pass));
            if (round == 0) {
              ASSERT_LE(cache.bytes(), shape.most_bytes(cache.tokens(), pass));
            }
            most = std::max(most, cache.bytes());
          }
          cache.truncate(0);  // the pages that were there serve again
        }
        EXPECT_GE(most + 2 * shape.page_bytes(), shape.most_bytes(5600, pass)) << window << " " << pass;
        EXPECT_LT(2 * shape.most_bytes(5600, pass), shape.bytes(5600));
      }
    }
  }
  const CacheShape whole{1, 16, packed4};
  EXPECT_EQ(whole.most_bytes(5600, 512), whole.bytes(5600));
}

}  // namespace
}  // namespace optiq::kernels::cpu
