// The loops of every instruction set on memory that ends, or begins, at an inaccessible page: a matrix may be
// the last thing in a mapped file. What comes out must be what comes out elsewhere.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "kernels/random_matrix.h"
#include "optiq/base/random.h"
#include "optiq/quant/format.h"
#include "src/kernels/cpu/buffer.h"
#include "src/kernels/cpu/isa.h"
#include "support/guarded.h"
#include "support/seed.h"

namespace optiq::kernels::cpu {
namespace {

using Floats = std::vector<float>;
using test::Against;
using test::Guarded;

constexpr std::size_t kOut = 3;

Floats random_floats(Random& random, std::size_t count) {
  Floats values(count);
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

Floats as_floats(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

/// A random matrix and a copy of it against a page.
struct GuardedMatrix {
  RandomMatrix matrix;
  Guarded<std::uint8_t> words, scales, biases;

  GuardedMatrix(Random& random, std::size_t in, int bits, int group, Storage storage, Against side)
      : matrix(random, kOut, in, bits, group, storage),
        words(matrix.words.data() + 1, matrix.words.size() - 1, side),
        scales(matrix.scales, side),
        biases(matrix.biases, side) {}

  [[nodiscard]] QuantizedRows rows() {
    QuantizedRows result = matrix.rows();
    result.words = words.data();
    result.scales = scales.data();
    result.biases = biases.data();
    return result;
  }
};

template <class Body>
void for_each_matrix(Body body) {
  Random random(test::seed());
  for (const KernelTable* table : available_kernels()) {
    for (const int bits : quant::kBitChoices) {
      for (const int group : quant::kGroupChoices) {
        for (const std::size_t groups : {1, 2, 3, 5, 9, 17}) {
          for (const Against side : {Against::begin, Against::end}) {
            const auto storage = static_cast<Storage>(random.below(3));
            SCOPED_TRACE(fmt::format("{} {}x{} groups {} storage {} side {}", table->name, bits, group,
                                     groups, static_cast<int>(storage), static_cast<int>(side)));
            GuardedMatrix w(random, groups * static_cast<std::size_t>(group), bits, group, storage, side);
            body(*table, random, w, side);
          }
        }
      }
    }
  }
}

/// Rows rounded by `table`, against a page.
struct GuardedRows {
  Guarded<std::int8_t> values;
  Guarded<float> scales, sums;
  Int8Rows view{};

  GuardedRows(const KernelTable& table, Guarded<float>& x, std::size_t rows, std::size_t n, int group,
              int order_bits, Against side)
      : values(rows * int8_row_bytes(n), side),
        scales(rows * int8_row_groups(n, group), side),
        sums(rows * int8_row_groups(n, group), side),
        view{values.data(), scales.data(), sums.data(), int8_row_bytes(n), int8_row_groups(n, group)} {
    for (std::size_t r = 0; r < rows; ++r) {
      table.int8_round(x.data() + r * n, n, group, order_bits, values.data() + r * view.value_stride,
                       scales.data() + r * view.group_stride, sums.data() + r * view.group_stride);
    }
  }
};

TEST(Bounds, Int8DotStaysInside) {
  for_each_matrix([](const KernelTable& table, Random& random, GuardedMatrix& w, Against side) {
    const RandomMatrix& m = w.matrix;
    Guarded<float> x(random_floats(random, kDotRows * m.in), side);
    GuardedRows rounded(table, x, kDotRows, m.in, m.group_size, m.bits <= 4 ? m.bits : 8, side);
    for (std::size_t rows = 1; rows <= kDotRows; ++rows) {
      Guarded<float> y(rows * kOut, side);
      Floats expected(rows * kOut);
      table.int8_dot(w.rows(), 0, kOut, rounded.view, rows, y.data(), kOut);
      table.int8_dot(m.rows(), 0, kOut, rounded.view, rows, expected.data(), kOut);
      ASSERT_EQ(y.values(), expected);
    }
  });
}

TEST(Bounds, PanelsAndTilesStayInside) {
  for_each_matrix([](const KernelTable& table, Random& random, GuardedMatrix& w, Against side) {
    const RandomMatrix& m = w.matrix;
    const std::size_t width = table.panel_rows, rows = 1 + random.below(table.tile_rows);
    Guarded<std::uint8_t> values(width * m.in, side);
    std::vector<std::uint8_t> expected(width * m.in);
    table.int8_panel(w.rows(), 1, kOut - 1, 0, m.in, values.data());
    table.int8_panel(m.rows(), 1, kOut - 1, 0, m.in, expected.data());
    ASSERT_EQ(values.values(), expected);
    Guarded<float> group_values(random_floats(random, width * m.groups()), side);
    Guarded<float> x(random_floats(random, rows * m.in), side), y(random_floats(random, rows * width), side);
    GuardedRows rounded(table, x, rows, m.in, m.group_size, 0, side);
    table.int8_tile(
        {values.data(), group_values.data(), group_values.data(), m.groups(), m.group_size, m.bits},
        rounded.view, rows, y.data());
  });
}

TEST(Bounds, QuantizedRowsStayInside) {
  for_each_matrix([](const KernelTable& table, Random& random, GuardedMatrix& w, Against side) {
    const RandomMatrix& m = w.matrix;
    const Floats scale_values = as_floats(m.scale_values), bias_values = as_floats(m.bias_values);
    Guarded<float> scales(scale_values, side), biases(bias_values, side);
    Guarded<float> x(random_floats(random, kDotRows * m.in), side);
    for (std::size_t row = 0; row < kOut; ++row) {
      const std::size_t bytes = row * m.in * static_cast<std::size_t>(m.bits) / 8, at = row * m.groups();
      const QuantizedRow guarded{w.words.data() + bytes, scales.data() + at, biases.data() + at, m.bits,
                                 m.group_size};
      const QuantizedRow plain{m.words.data() + 1 + bytes, &scale_values[at], &bias_values[at], m.bits,
                               m.group_size};
      Guarded<float> wide(m.in, side), y(kDotRows, side);
      Floats wide_expected(m.in), y_expected(kDotRows);
      table.dequantize(guarded, m.in, wide.data());
      table.dequantize(plain, m.in, wide_expected.data());
      ASSERT_EQ(wide.values(), wide_expected);
      table.quantized_dot(guarded, m.in, x.data(), m.in, kDotRows, y.data());
      table.quantized_dot(plain, m.in, x.data(), m.in, kDotRows, y_expected.data());
      ASSERT_EQ(y.values(), y_expected);
    }
  });
}

TEST(Bounds, DenseRowsOfEveryLengthStayInside) {
  Random random(test::seed());
  for (const KernelTable* table : available_kernels()) {
    for (const Storage storage : {Storage::f32, Storage::f16, Storage::bf16}) {
      for (std::size_t n = 1; n < 100; ++n) {
        for (const Against side : {Against::begin, Against::end}) {
          std::vector<std::uint8_t> bytes(n * storage_bytes(storage));
          for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random.below(64));
          Guarded<std::uint8_t> w(bytes, side);
          Guarded<float> x(random_floats(random, kDotRows * n), side), y(kDotRows, side), wide(n, side);
          Floats y_expected(kDotRows), wide_expected(n);
          table->dot(storage, w.data(), n, x.data(), n, kDotRows, y.data());
          table->dot(storage, bytes.data(), n, x.data(), n, kDotRows, y_expected.data());
          ASSERT_EQ(y.values(), y_expected) << table->name << " " << n;
          table->widen(storage, w.data(), n, wide.data());
          table->widen(storage, bytes.data(), n, wide_expected.data());
          ASSERT_EQ(wide.values(), wide_expected) << table->name << " " << n;
        }
      }
    }
  }
}

}  // namespace
}  // namespace optiq::kernels::cpu
