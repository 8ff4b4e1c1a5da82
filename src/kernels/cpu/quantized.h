// A quantized matrix as the CPU kernels read it.
#pragma once

#include "primitive.h"
#include "products.h"

namespace optiq::kernels::cpu {

/// Three row-contiguous tensors of quant/format.h.
struct QuantizedView {
  const std::uint32_t* words;
  const char* scales;
  const char* biases;
  Storage storage;  ///< of scales and biases
  std::size_t out, in;
  int bits, group_size;

  QuantizedView(const mx::array& weight, const mx::array& scales, const mx::array& biases, int bits,
                int group_size);

  /// Columns `columns` (whole groups) of a row; its group values go to `values`, 2·columns/group_size floats.
  [[nodiscard]] QuantizedRow row(std::size_t index, Range columns, float* values) const;
  [[nodiscard]] std::size_t group_values(Range columns) const;
};

/// Blocks dequantized to f32.
BlockedWeight<float> f32_blocks(const QuantizedView& matrix);

}  // namespace optiq::kernels::cpu
