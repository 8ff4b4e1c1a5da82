#include <cstring>

#include "group.h"
#include "optiq/quant/encoder.h"
#include "optiq/quant/packing.h"
#include "stored.h"

namespace optiq::quant {

void load_row(const MatrixView& matrix, std::int64_t row, std::span<float> values) {
  load_floats(matrix.bytes.data() + static_cast<std::size_t>(row) * values.size() * dtype_bytes(matrix.dtype),
              matrix.dtype, values);
}

void dequantize_row(const QuantizedMatrix& matrix, std::int64_t row, std::span<float> values) {
  const auto words = static_cast<std::size_t>(packed_row_words(matrix.in_features, matrix.format.bits));
  const auto group = static_cast<std::size_t>(matrix.format.group_size);
  const std::size_t groups = values.size() / group;
  const auto index = static_cast<std::size_t>(row);
  const std::size_t affine_offset = index * groups * dtype_bytes(matrix.dtype);

  std::vector<std::uint8_t> q(values.size());
  std::vector<float> scales(groups);
  std::vector<float> biases(groups);
  unpack_row(std::span(matrix.weight).subspan(index * words, words), matrix.format.bits, q);
  load_floats(matrix.scales.data() + affine_offset, matrix.dtype, scales);
  load_floats(matrix.biases.data() + affine_offset, matrix.dtype, biases);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(q[i]) * scales[i / group] + biases[i / group];
  }
}

}  // namespace optiq::quant
