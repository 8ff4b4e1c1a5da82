// The loops over cache pages of every instruction set, against scalar double arithmetic, on memory between
// inaccessible pages.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "optiq/base/half.h"
#include "optiq/base/random.h"
#include "src/kernels/cpu/isa.h"
#include "support/guarded.h"
#include "support/seed.h"

namespace optiq::kernels::cpu {
namespace {

using Floats = std::vector<float>;
using test::Against;
using test::Guarded;

constexpr double kEpsilon = 0x1p-24;

Floats random_floats(Random& random, std::size_t count) {
  Floats values(count);
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

/// Random elements as a cache stores them, and their values; int8 elements count as integers.
struct Cached {
  std::vector<std::uint8_t> bytes;
  std::vector<double> values;

  Cached(Random& random, CacheStorage storage, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      const auto value = static_cast<float>(random.normal());
      if (storage == CacheStorage::f32) add(std::bit_cast<std::uint32_t>(value), value);
      if (storage == CacheStorage::f16) add(f32_to_f16(value), f16_to_f32(f32_to_f16(value)));
      if (storage == CacheStorage::bf16) add(f32_to_bf16(value), bf16_to_f32(f32_to_bf16(value)));
      if (storage == CacheStorage::int8) {
        const auto integer = static_cast<std::int8_t>(static_cast<int>(random.below(255)) - 127);
        add(static_cast<std::uint8_t>(integer), static_cast<float>(integer));
      }
    }
  }

 private:
  template <class Bits>
  void add(Bits bits, float value) {
    for (std::size_t i = 0; i < sizeof bits; ++i) bytes.push_back(static_cast<std::uint8_t>(bits >> (8 * i)));
    values.push_back(static_cast<double>(value));
  }
};

template <class Body>
void for_each_case(Body body) {
  Random random(test::seed());
  for (const KernelTable* table : available_kernels()) {
    for (const auto storage :
         {CacheStorage::f32, CacheStorage::f16, CacheStorage::bf16, CacheStorage::int8}) {
      for (const std::size_t rows : {1, 3, 4, 8, 13}) {
        for (const Against side : {Against::begin, Against::end}) {
          SCOPED_TRACE(fmt::format("{} storage {} rows {} side {}", table->name, static_cast<int>(storage),
                                   rows, static_cast<int>(side)));
          body(*table, random, storage, rows, side);
        }
      }
    }
  }
}

TEST(CacheLoops, ScoresMatchTheDoubleReference) {
  for_each_case(
      [](const KernelTable& table, Random& random, CacheStorage storage, std::size_t rows, Against side) {
        const std::size_t d = 1 + random.below(70), blocks = 1 + random.below(4), keys = blocks * kCacheBlock;
        const Cached k(random, storage, keys * d);
        const Floats q = random_floats(random, rows * d);
        Guarded<std::uint8_t> stored(k.bytes, side);
        Guarded<float> queries(q, side), s(Floats(rows * keys, NAN), side);
        table.cache_scores(storage, stored.data(), d, blocks, queries.data(), d, rows, s.data(), keys);
        for (std::size_t r = 0; r < rows; ++r) {
          for (std::size_t key = 0; key < keys; ++key) {
            double expected = 0, size = 0;
            for (std::size_t j = 0; j < d; ++j) {
              const std::size_t at = (key / kCacheBlock * d + j) * kCacheBlock + key % kCacheBlock;
              expected += static_cast<double>(q[r * d + j]) * k.values[at];
              size += std::abs(static_cast<double>(q[r * d + j]) * k.values[at]);
            }
            ASSERT_NEAR(s.data()[r * keys + key], expected, 16 * kEpsilon * size) << r << " " << key;
          }
        }
      });
}

TEST(CacheLoops, ValuesMatchTheDoubleReference) {
  for_each_case(
      [](const KernelTable& table, Random& random, CacheStorage storage, std::size_t rows, Against side) {
        const std::size_t d = 1 + random.below(150), n = 1 + random.below(40);
        const Cached v(random, storage, n * d);
        const Floats p = random_floats(random, rows * n), before = random_floats(random, rows * d);
        Guarded<std::uint8_t> stored(v.bytes, side);
        Guarded<float> weights(p, side), y(before, side);
        table.cache_values(storage, stored.data(), d, n, weights.data(), n, rows, y.data(), d);
        for (std::size_t r = 0; r < rows; ++r) {
          for (std::size_t j = 0; j < d; ++j) {
            double expected = before[r * d + j], size = std::abs(expected);
            for (std::size_t i = 0; i < n; ++i) {
              expected += static_cast<double>(p[r * n + i]) * v.values[i * d + j];
              size += std::abs(static_cast<double>(p[r * n + i]) * v.values[i * d + j]);
            }
            ASSERT_NEAR(y.data()[r * d + j], expected, 16 * kEpsilon * size) << r << " " << j;
          }
        }
      });
}

TEST(CacheLoops, UnpackingIsExact) {
  Random random(test::seed());
  for (const KernelTable* table : available_kernels()) {
    for (const int bits : {3, 4, 5, 6, 8}) {
      for (const Against side : {Against::begin, Against::end}) {
        SCOPED_TRACE(fmt::format("{} bits {}", table->name, bits));
        const auto width = static_cast<std::size_t>(bits);
        const std::size_t stride = kCacheBlock * (1 + random.below(4));
        std::vector<std::uint32_t> words(width * kCacheBlock);
        for (std::uint32_t& word : words) word = static_cast<std::uint32_t>(random.below(1ull << 32));
        Guarded<std::uint32_t> stored(words, side);
        Guarded<float> y(Floats((kCacheSteps - 1) * stride + kCacheBlock, NAN), side);
        table->cache_unpack(bits, stored.data(), y.data(), stride);
        for (std::size_t step = 0; step < kCacheSteps; ++step) {
          for (std::size_t lane = 0; lane < stride; ++lane) {
            const float actual =
                step + 1 < kCacheSteps || lane < kCacheBlock ? y.data()[step * stride + lane] : NAN;
            if (lane >= kCacheBlock) {
              ASSERT_TRUE(std::isnan(actual)) << "written beyond a step";
              continue;
            }
            std::uint32_t expected = 0;
            for (std::size_t b = 0; b < width; ++b) {
              const std::size_t bit = step * width + b;
              expected |= (words[bit / 32 * kCacheBlock + lane] >> (bit % 32) & 1) << b;
            }
            ASSERT_EQ(actual, static_cast<float>(expected)) << step << " " << lane;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace optiq::kernels::cpu
