// The int8 loops of every instruction set against scalar double arithmetic on the rounded activations: exact
// integers, so only the f32 roundings of scales and sums are allowed.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/random_matrix.h"
#include "optiq/base/half.h"
#include "optiq/base/random.h"
#include "optiq/quant/format.h"
#include "src/kernels/cpu/buffer.h"
#include "src/kernels/cpu/isa.h"
#include "support/seed.h"

namespace optiq::kernels::cpu {
namespace {

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();
constexpr double kEpsilon = 0x1p-24;

/// Rows rounded by `table`, with memory beyond its promises poisoned.
struct Rounded {
  GrowingBuffer<std::int8_t> values;
  std::vector<float> scales, sums;
  Int8Rows view{};

  Rounded(const KernelTable& table, const std::vector<float>& x, std::size_t n, int group_size,
          int order_bits) {
    const std::size_t rows = x.size() / n, stride = int8_row_bytes(n),
                      groups = int8_row_groups(n, group_size);
    std::fill_n(values.reserve(rows * stride), rows * stride, std::int8_t{-128});
    scales.assign(rows * groups, kPoison);
    sums.assign(rows * groups, kPoison);
    for (std::size_t r = 0; r < rows; ++r) {
      table.int8_round(&x[r * n], n, group_size, order_bits, values.data() + r * stride, &scales[r * groups],
                       &sums[r * groups]);
    }
    view = {values.data(), scales.data(), sums.data(), stride, groups};
  }
};

std::vector<float> random_floats(Random& random, std::size_t count) {
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.normal() * std::exp2(random.uniform(-3, 3)));
  return values;
}

/// Σ (q'·s + b)·x̂ in double with x̂ the activations rounded as the contract says, and the size of its terms.
struct Reference {
  double value = 0, size = 0;
};

Reference reference_dot(const RandomMatrix& w, std::size_t row, const float* x) {
  Reference result;
  const auto group = static_cast<std::size_t>(w.group_size);
  for (std::size_t g = 0; g < w.groups(); ++g) {
    float top = 0;
    for (std::size_t i = 0; i < group; ++i) top = std::max(top, std::abs(x[g * group + i]));
    const float scale = top / 127;
    for (std::size_t i = 0; i < group; ++i) {
      const double q = scale > 0 ? std::nearbyint(x[g * group + i] / scale) : 0.0;
      const std::size_t at = row * w.groups() + g;
      const double level = w.level(row, g * group + i), rounded = q * static_cast<double>(scale);
      result.value += (level * w.scale_values[at] + w.bias_values[at]) * rounded;
      result.size += (std::abs(level * w.scale_values[at]) + std::abs(w.bias_values[at])) * std::abs(rounded);
    }
  }
  return result;
}

template <class Body>
void for_each_case(Body body) {
  for (const KernelTable* table : available_kernels()) {
    for (const int bits : quant::kBitChoices) {
      for (const int group : quant::kGroupChoices) {
        for (const Storage storage : {Storage::f32, Storage::f16, Storage::bf16}) {
          SCOPED_TRACE(
              fmt::format("{} {}x{} storage {}", table->name, bits, group, static_cast<int>(storage)));
          body(*table, bits, group, storage);
        }
      }
    }
  }
}

TEST(Int8, DotMatchesTheDoubleReferenceInEveryFormat) {
  Random random(test::seed());
  for_each_case([&](const KernelTable& table, int bits, int group, Storage storage) {
    const std::size_t in = static_cast<std::size_t>(group) * (1 + random.below(40)),
                      out = 1 + random.below(6);
    const RandomMatrix w(random, out + 1, in, bits, group, storage);
    for (std::size_t rows = 1; rows <= kDotRows; ++rows) {
      const std::vector<float> x = random_floats(random, rows * in);
      const Rounded rounded(table, x, in, group, bits <= 4 ? bits : 8);
      std::vector<float> y(rows * (out + 3), kPoison);
      table.int8_dot(w.rows(), 1, out, rounded.view, rows, y.data(), out + 3);
      for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t o = 0; o < out; ++o) {
          const Reference expected = reference_dot(w, o + 1, &x[r * in]);
          ASSERT_NEAR(y[r * (out + 3) + o], expected.value, 8 * kEpsilon * expected.size) << r << " " << o;
        }
        for (std::size_t o = out; o < out + 3; ++o) ASSERT_TRUE(std::isnan(y[r * (out + 3) + o]));
      }
    }
  });
}

TEST(Int8, TilesMatchTheDoubleReferenceInEveryFormat) {
  Random random(test::seed());
  for_each_case([&](const KernelTable& table, int bits, int group, Storage storage) {
    const std::size_t in = static_cast<std::size_t>(group) * (1 + random.below(6)), width = table.panel_rows;
    const std::size_t out = 1 + random.below(width), rows = 1 + random.below(table.tile_rows);
    const RandomMatrix w(random, out + 2, in, bits, group, storage);
    const std::size_t skipped = random.below(w.groups()), column = skipped * static_cast<std::size_t>(group),
                      groups = w.groups() - skipped;
    GrowingBuffer<std::uint8_t> values;
    std::fill_n(values.reserve(width * in), width * in, std::uint8_t{255});
    table.int8_panel(w.rows(), 2, out, column, in - column, values.data());
    GrowingBuffer<float> scales, biases;
    std::fill_n(scales.reserve(groups * width), groups * width, 0.0f);
    std::fill_n(biases.reserve(groups * width), groups * width, 0.0f);
    for (std::size_t g = 0; g < groups; ++g) {
      for (std::size_t o = 0; o < out; ++o) {
        const std::size_t at = (o + 2) * w.groups() + skipped + g;
        scales.data()[g * width + o] = static_cast<float>(w.scale_values[at]);
        biases.data()[g * width + o] = static_cast<float>(w.bias_values[at]);
      }
    }
    std::vector<float> x = random_floats(random, rows * in);
    for (std::size_t r = 0; r < rows; ++r) std::fill_n(&x[r * in], column, 0.0f);
    const Rounded rounded(table, x, in, group, 0);
    const Int8Rows part{rounded.view.values + column, rounded.view.scales + skipped,
                        rounded.view.sums + skipped, rounded.view.value_stride, rounded.view.group_stride};
    std::vector<float> y(rows * width, 1.0f);
    table.int8_tile({values.data(), scales.data(), biases.data(), groups, group, bits}, part, rows, y.data());
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t o = 0; o < out; ++o) {
        const Reference expected = reference_dot(w, o + 2, &x[r * in]);
        ASSERT_NEAR(y[r * width + o], 1 + expected.value, 8 * kEpsilon * (expected.size + 1))
            << r << " " << o;
      }
      for (std::size_t o = out; o < width; ++o) ASSERT_EQ(y[r * width + o], 1.0f);
    }
  });
}

/// Where sums are largest: every weight at its greatest level, every activation at ±127, groups of one sign.
TEST(Int8, TheLargestSumsAreExact) {
  Random random(test::seed());
  for_each_case([&](const KernelTable& table, int bits, int group, Storage storage) {
    const std::size_t in = static_cast<std::size_t>(group) * 3, width = table.panel_rows;
    RandomMatrix w(random, width, in, bits, group, storage);
    std::fill(w.words.begin(), w.words.end(), std::uint8_t{255});
    for (const float value : {1.0f, -1.0f}) {
      const std::vector<float> x(in, value);
      const Rounded ordered(table, x, in, group, bits <= 4 ? bits : 8), rounded(table, x, in, group, 0);
      std::vector<float> y(width, kPoison), sums(width, 0.0f);
      table.int8_dot(w.rows(), 0, width, ordered.view, 1, y.data(), width);
      GrowingBuffer<std::uint8_t> values;
      table.int8_panel(w.rows(), 0, width, 0, in, values.reserve(width * in));
      GrowingBuffer<float> scales, biases;
      std::fill_n(scales.reserve(3 * width), 3 * width, 127.0f);  // so that scale · 127 is 1
      std::fill_n(biases.reserve(3 * width), 3 * width, 0.0f);
      table.int8_tile({values.data(), scales.data(), biases.data(), 3, group, bits}, rounded.view, 1,
                      sums.data());
      for (std::size_t o = 0; o < width; ++o) {
        const Reference expected = reference_dot(w, o, x.data());
        ASSERT_NEAR(y[o], expected.value, 8 * kEpsilon * expected.size) << o;
        const double sum = 127.0 * ((1 << bits) - 1) * static_cast<double>(in) * static_cast<double>(value);
        ASSERT_NEAR(sums[o], sum, 8 * kEpsilon * std::abs(sum)) << o;
      }
    }
  });
}

TEST(Int8, RoundingKeepsItsBoundAtEveryScale) {
  Random random(test::seed());
  for (const KernelTable* table : available_kernels()) {
    for (const double scale : {0.0, 1e-45, 1e-42, 1e-38, 1e-20, 1.0, 1e20, 3e38}) {
      std::vector<float> x(64);
      for (float& value : x) value = static_cast<float>(scale * random.uniform(-1, 1));
      const Rounded rounded(*table, x, 64, 32, 0);
      for (std::size_t g = 0; g < 2; ++g) {
        double top = 0, sum = 0;
        for (std::size_t i = 0; i < 32; ++i)
          top = std::max(top, std::abs(static_cast<double>(x[g * 32 + i])));
        for (std::size_t i = 0; i < 32; ++i) {
          const double q = rounded.view.values[g * 32 + i], step = static_cast<double>(rounded.scales[g]);
          // Half a step; a step below the smallest normal number is itself rounded.
          EXPECT_NEAR(q * step, static_cast<double>(x[g * 32 + i]), top / 254 * (1 + 1e-5) + 64 * 1.5e-45)
              << table->name << " " << scale;
          sum += q * step;
        }
        if (std::abs(sum) < 3e38) {
          EXPECT_NEAR(static_cast<double>(rounded.sums[g]), sum, std::abs(sum) * 2 * kEpsilon + 1e-44);
        }
      }
      for (std::size_t i = 64; i < rounded.view.value_stride; ++i) EXPECT_EQ(rounded.view.values[i], 0);
      for (std::size_t g = 2; g < rounded.view.group_stride; ++g) EXPECT_EQ(rounded.scales[g], 0);
    }
  }
}

TEST(Int8, NumbersThatAreNotFiniteShow) {
  for (const KernelTable* table : available_kernels()) {
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      for (std::size_t at = 0; at < 64; ++at) {
        std::vector<float> x(64, 1.0f);
        x[at] = bad;
        const Rounded rounded(*table, x, 64, 32, 0);
        EXPECT_FALSE(std::isfinite(rounded.scales[at / 32])) << table->name << " " << at;
        EXPECT_TRUE(std::isfinite(rounded.scales[1 - at / 32]));
      }
    }
  }
}

}  // namespace
}  // namespace optiq::kernels::cpu
