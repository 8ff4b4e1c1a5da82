// Matrices that quantizers meet, made fresh from a seed.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "optiq/base/half.h"
#include "optiq/base/random.h"
#include "optiq/quant/encoder.h"

namespace optiq::quant {

/// Values in f32, their storage in `dtype` (to which they are rounded first), and a view of it.
struct TestMatrix {
  std::int64_t rows;
  std::int64_t columns;
  DType dtype;
  std::vector<float> values;
  std::vector<std::byte> bytes;

  TestMatrix(std::int64_t row_count, std::int64_t column_count, DType type,
             const std::function<double(std::int64_t row, std::int64_t column)>& value)
      : rows(row_count), columns(column_count), dtype(type) {
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t column = 0; column < columns; ++column) push(static_cast<float>(value(row, column)));
    }
  }

  [[nodiscard]] MatrixView view() const { return {rows, columns, dtype, bytes}; }

 private:
  void push(float value) {
    std::byte stored[4];
    if (dtype == DType::f32) {
      std::memcpy(stored, &value, 4);
    } else {
      const std::uint16_t half = dtype == DType::bf16 ? f32_to_bf16(value) : f32_to_f16(value);
      value = dtype == DType::bf16 ? bf16_to_f32(half) : f16_to_f32(half);
      std::memcpy(stored, &half, 2);
    }
    values.push_back(value);
    bytes.insert(bytes.end(), stored, stored + dtype_bytes(dtype));
  }
};

struct NamedDistribution {
  std::string name;
  std::function<double(Random&, std::int64_t column)> draw;
};

/// `largest` is the magnitude of the "huge" ones: what the dtype still holds.
inline std::vector<NamedDistribution> distributions(double largest) {
  return {
      {"normal", [](Random& random, std::int64_t) { return 0.02 * random.normal(); }},
      {"heavy tails",
       [](Random& random, std::int64_t) {
         return 0.02 * random.normal() / std::sqrt(random.uniform() + 1e-3);
       }},
      {"constant", [](Random&, std::int64_t) { return 0.37; }},
      {"negative constant", [](Random&, std::int64_t) { return -0.37; }},
      {"zero", [](Random&, std::int64_t) { return 0.0; }},
      {"negative zero", [](Random&, std::int64_t) { return -0.0; }},
      {"all negative", [](Random& random, std::int64_t) { return -0.5 - random.uniform(); }},
      {"all positive", [](Random& random, std::int64_t) { return 3.0 + random.uniform(); }},
      {"tiny", [](Random& random, std::int64_t) { return 3e-8 * random.normal(); }},
      {"subnormal", [](Random& random, std::int64_t) { return 1e-39 * random.normal(); }},
      {"huge", [largest](Random& random, std::int64_t) { return largest * random.uniform(-1, 1); }},
      {"one outlier",
       [](Random& random, std::int64_t column) { return column == 17 ? 5.0 : 0.01 * random.normal(); }},
      {"ties",
       [](Random& random, std::int64_t) { return 0.5 * static_cast<double>(random.below(31)) - 7.5; }},
  };
}

}  // namespace optiq::quant
