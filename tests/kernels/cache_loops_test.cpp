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

/// The level of a step and lane of a tile, from the two planes of packed_tile.h.
double level_at(const std::uint8_t* tile, std::size_t bits, std::size_t step, std::size_t lane) {
  const std::size_t first = bits == 8 ? 8 : bits == 3 ? 2 : 4, at = lane * 4 + step % 4;
  const auto field = [&](const std::uint8_t* plane, std::size_t width) {
    const std::size_t bit = step / 4 * width;
    return static_cast<double>(plane[bit / 8 * 64 + at] >> (bit % 8) & ((1 << width) - 1));
  };
  const double low = field(tile, first);
  return bits == first ? low
                       : low + std::ldexp(field(tile + first * 64, bits - first), static_cast<int>(first));
}

/// Memory of CacheRows, filled with what should be overwritten.
struct RowMemory {
  std::size_t rows, steps;
  Guarded<std::int8_t> digits;
  Guarded<float> scales, offsets;

  RowMemory(std::size_t row_count, std::size_t step_count, Against side)
      : rows(row_count),
        steps(step_count),
        digits(std::vector<std::int8_t>(rows * 2 * ((steps + 63) / 64 * 64), 99), side),
        scales(Floats(rows, NAN), side),
        offsets(Floats(rows, NAN), side) {}
  CacheRows get() { return {digits.data(), scales.data(), offsets.data(), rows}; }
  /// 0: high, 1: low.
  std::int8_t& digit(std::size_t row, std::size_t step, std::size_t which) {
    return digits.data()[((step / 64 * rows + row) * 2 + which) * 64 + step % 64];
  }
};

TEST(CacheLoops, DigitsAreTheNearest) {
  Random random(test::seed());
  for (const KernelTable* table : available_kernels()) {
    for (const Against side : {Against::begin, Against::end}) {
      const std::size_t rows = 1 + random.below(9), steps = 32 * (1 + random.below(6)), stride = steps + 5;
      SCOPED_TRACE(fmt::format("{} rows {} steps {}", table->name, rows, steps));
      Floats x = random_floats(random, (rows - 1) * stride + steps), s = random_floats(random, steps);
      const Floats m = random_floats(random, steps);
      for (float& scale : s) scale = std::abs(scale);
      std::fill_n(x.begin(), rows > 1 ? steps : 0, 0.0f);
      Guarded<float> values(x, side), scales(s, side), middles(m, side);
      RowMemory to(rows, steps, side);
      constexpr float kMiddle = 7.5f;
      table->cache_digits(values.data(), stride, {scales.data(), middles.data(), steps, kMiddle}, to.get());
      for (std::size_t r = 0; r < rows; ++r) {
        const double scale = static_cast<double>(to.scales.data()[r]);
        double largest = 0, offset = 0, size = 0;
        for (std::size_t i = 0; i < steps; ++i) {
          const double scaled = static_cast<double>(x[r * stride + i]) * static_cast<double>(s[i]);
          const int high = to.digit(r, i, 0), low = to.digit(r, i, 1), q = 128 * high + low;
          ASSERT_TRUE(low >= -64 && low < 64 && high >= -127) << low;
          ASSERT_NEAR(q * scale, scaled, (0.5 + 0x1p-6) * scale) << r << " " << i;
          largest = std::max(largest, std::abs(scaled));
          const double whole = static_cast<double>(x[r * stride + i]) * static_cast<double>(m[i]);
          offset += whole - q * scale * static_cast<double>(kMiddle);
          size += std::abs(whole) + std::abs(q * scale * static_cast<double>(kMiddle));
        }
        EXPECT_NEAR(scale, largest / (127 * 128 + 63), 4 * kEpsilon * scale);
        EXPECT_NEAR(to.offsets.data()[r], offset, 16 * kEpsilon * size);
      }
    }
  }
}

TEST(CacheLoops, DigitsOfWhatIsNoNumberGiveNone) {
  for (const KernelTable* table : available_kernels()) {
    Floats x(64, 1.0f), s(64, 1.0f), m(64, 1.0f);
    s[5] = m[5] = NAN;
    RowMemory to(1, 64, Against::end);
    table->cache_digits(x.data(), 64, {s.data(), m.data(), 64, 1.5f}, to.get());
    EXPECT_TRUE(std::isnan(to.offsets.data()[0])) << table->name;
    EXPECT_FALSE(std::isnan(to.scales.data()[0])) << table->name;
  }
}

TEST(CacheLoops, DotsMatchTheDoubleReference) {
  Random random(test::seed());
  for (const KernelTable* table : available_kernels()) {
    for (const int bits : {3, 4, 5, 6, 8}) {
      for (const std::size_t rows : {1, 2, 3, 4, 5, 11}) {
        const Against side = random.below(2) == 0 ? Against::begin : Against::end;
        const std::size_t blocks = 1 + random.below(5), tiles = 1 + random.below(5), lanes = 16 * blocks,
                          width = static_cast<std::size_t>(bits);
        SCOPED_TRACE(
            fmt::format("{} bits {} rows {} blocks {} tiles {}", table->name, bits, rows, blocks, tiles));
        std::vector<std::uint8_t> bytes(blocks * tiles * width * 64);
        // Now and then all levels and digits at their largest: sums must not overflow.
        const bool is_extreme = random.below(3) == 0;
        for (std::uint8_t& byte : bytes)
          byte = static_cast<std::uint8_t>(is_extreme ? 255 : random.below(256));
        RowMemory x(rows, tiles * 32, side);
        for (std::size_t r = 0; r < rows; ++r) {
          x.scales.data()[r] = static_cast<float>(random.normal());
          x.offsets.data()[r] = static_cast<float>(random.normal());
          for (std::size_t i = 0; i < tiles * 32; ++i) {
            const auto sign = static_cast<int>(r % 2 * 2) - 1;
            x.digit(r, i, 0) =
                static_cast<std::int8_t>(is_extreme ? 127 * sign : static_cast<int>(random.below(255)) - 127);
            x.digit(r, i, 1) =
                static_cast<std::int8_t>(is_extreme ? 63 * sign : static_cast<int>(random.below(128)) - 64);
          }
        }
        const Floats before = random_floats(random, rows * lanes);
        Guarded<std::uint8_t> stored(bytes, side);
        Guarded<float> y(before, side);
        const void* ahead = stored.data() + random.below(2) * 4096;
        table->cache_dots({bits, blocks, tiles * 32, stored.data(), ahead}, x.get(), y.data(), lanes);
        for (std::size_t r = 0; r < rows; ++r) {
          for (std::size_t lane = 0; lane < lanes; ++lane) {
            double sum = 0, size = 0;
            for (std::size_t i = 0; i < tiles * 32; ++i) {
              const std::uint8_t* tile = bytes.data() + (lane / 16 * tiles + i / 32) * width * 64;
              const double level = level_at(tile, width, i % 32, lane % 16);
              sum += level * (128 * x.digit(r, i, 0) + x.digit(r, i, 1));
              size += level * (128 * std::abs(x.digit(r, i, 0)) + std::abs(x.digit(r, i, 1)));
            }
            const double scale = static_cast<double>(x.scales.data()[r]),
                         offset = static_cast<double>(x.offsets.data()[r]),
                         start = static_cast<double>(before[r * lanes + lane]);
            ASSERT_NEAR(y.data()[r * lanes + lane], start + scale * sum + offset,
                        8 * kEpsilon * (std::abs(start) + std::abs(scale) * size + std::abs(offset)))
                << r << " " << lane;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace optiq::kernels::cpu
