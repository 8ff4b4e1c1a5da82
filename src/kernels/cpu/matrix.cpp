#include "matrix.h"

#include <map>

#include "primitive.h"
#include "scratch.h"

namespace optiq::kernels::cpu {
namespace {

using Bf16 = std::uint16_t;

const float* widened_block(const Matrix& matrix, Range out, Range in) {
  float* wide = scratch<float>(Slot::weights, out.size() * in.size());
  for (std::size_t row = out.begin; row < out.end; ++row) {
    kernels().widen(matrix.storage, element(matrix, row, in.begin), in.size(),
                    wide + (row - out.begin) * in.size());
  }
  return wide;
}

const float* dequantized_block(const Matrix& matrix, Range out, Range in) {
  float* wide = scratch<float>(Slot::weights, out.size() * in.size());
  float* values = scratch<float>(Slot::group_values, group_values(matrix, in));
  for (std::size_t row = out.begin; row < out.end; ++row) {
    kernels().dequantize(quantized_row(matrix, row, in, values), in.size(),
                         wide + (row - out.begin) * in.size());
  }
  return wide;
}

const Bf16* narrowed_block(const Matrix& matrix, Range out, Range in) {
  Bf16* narrow = scratch<Bf16>(Slot::weights, out.size() * in.size());
  float* wide = scratch<float>(Slot::group_values, in.size());
  for (std::size_t row = out.begin; row < out.end; ++row) {
    kernels().widen(matrix.storage, element(matrix, row, in.begin), in.size(), wide);
    kernels().narrow_bf16(wide, in.size(), narrow + (row - out.begin) * in.size());
  }
  return narrow;
}

}  // namespace

std::size_t Matrix::bytes() const {
  if (!is_quantized()) return out * in * storage_bytes(storage);
  const std::size_t groups = out * (in / static_cast<std::size_t>(group_size));
  return out * in / 8 * static_cast<std::size_t>(bits) + 2 * groups * storage_bytes(storage);
}

Matrix dense_matrix(const mx::array& weight) {
  return {.data = elements(weight),
          .storage = storage_of(weight),
          .out = static_cast<std::size_t>(weight.shape(0)),
          .in = static_cast<std::size_t>(weight.shape(1))};
}

Matrix quantized_matrix(const mx::array& weight, const mx::array& scales, const mx::array& biases, int bits,
                        int group_size) {
  return {.data = weight.data<std::uint32_t>(),
          .scales = elements(scales),
          .biases = elements(biases),
          .storage = storage_of(scales),
          .out = static_cast<std::size_t>(scales.shape(0)),
          .in = static_cast<std::size_t>(scales.shape(1)) * static_cast<std::size_t>(group_size),
          .bits = bits,
          .group_size = group_size};
}

std::vector<float> float_values(const mx::array& array) {
  std::vector<float> values(array.size());
  kernels().widen(storage_of(array), elements(array), values.size(), values.data());
  return values;
}

QuantizedRows quantized_rows(const Matrix& matrix) {
  return {matrix.data, matrix.scales, matrix.biases,    matrix.storage,
          matrix.in,   matrix.bits,   matrix.group_size};
}

std::size_t group_values(const Matrix& matrix, Range columns) {
  return 2 * columns.size() / static_cast<std::size_t>(matrix.group_size);
}

QuantizedRow quantized_row(const Matrix& matrix, std::size_t row, Range columns, float* values) {
  const std::size_t groups = group_values(matrix, columns) / 2, at = row * matrix.in + columns.begin;
  const std::size_t skipped =
      at / static_cast<std::size_t>(matrix.group_size) * storage_bytes(matrix.storage);
  kernels().widen(matrix.storage, static_cast<const char*>(matrix.scales) + skipped, groups, values);
  kernels().widen(matrix.storage, static_cast<const char*>(matrix.biases) + skipped, groups, values + groups);
  const char* words = static_cast<const char*>(matrix.data) + at / 8 * static_cast<std::size_t>(matrix.bits);
  return {words, values, values + groups, matrix.bits, matrix.group_size};
}

const char* element(const Matrix& matrix, std::size_t row, std::size_t column) {
  return static_cast<const char*>(matrix.data) + (row * matrix.in + column) * storage_bytes(matrix.storage);
}

float dot(Storage storage, const void* w, std::size_t n, const float* x) {
  float sum = 0;
  kernels().dot(storage, w, n, x, n, 1, &sum);
  return sum;
}

void read_row(const Matrix& matrix, std::size_t row, float* y) {
  if (!matrix.is_quantized()) return kernels().widen(matrix.storage, element(matrix, row, 0), matrix.in, y);
  const Range columns{0, matrix.in};
  float* values = scratch<float>(Slot::group_values, group_values(matrix, columns));
  kernels().dequantize(quantized_row(matrix, row, columns, values), matrix.in, y);
}

BlockedWeight<float> f32_blocks(const Matrix& matrix) {
  const bool in_place = !matrix.is_quantized() && matrix.storage == Storage::f32;
  const auto block = [matrix, in_place](Range out, Range in) -> Operand<float> {
    if (in_place) return {reinterpret_cast<const float*>(element(matrix, out.begin, in.begin)), matrix.in};
    return {(matrix.is_quantized() ? dequantized_block : widened_block)(matrix, out, in), in.size()};
  };
  return {matrix.out, matrix.in, block, in_place};
}

BlockedWeight<Bf16> bf16_blocks(const Matrix& matrix) {
  const bool in_place = matrix.storage == Storage::bf16;
  const auto block = [matrix, in_place](Range out, Range in) -> Operand<Bf16> {
    if (in_place) return {reinterpret_cast<const Bf16*>(element(matrix, out.begin, in.begin)), matrix.in};
    return {narrowed_block(matrix, out, in), in.size()};
  };
  return {matrix.out, matrix.in, block, in_place};
}

void multiply(const mx::array& x, const Matrix& weight, std::span<const float> bias, Compute compute,
              mx::array& y) {
  static thread_local std::map<Compute, Multiplier> multipliers;
  Multiplier& multiplier = multipliers.try_emplace(compute, compute).first->second;
  const Use use{.matrix = &weight,
                .bias = bias.empty() ? nullptr : bias.data(),
                .y = y.data<float>(),
                .stride = weight.out};
  multiplier.run(x.data<float>(), row_count(x), weight.in, {&use, 1});
}

}  // namespace optiq::kernels::cpu
