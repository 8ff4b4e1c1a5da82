#include "quantized.h"

#include "scratch.h"

namespace optiq::kernels::cpu {

QuantizedView::QuantizedView(const mx::array& weight, const mx::array& scale, const mx::array& bias,
                             int bit_count, int group)
    : words(weight.data<std::uint32_t>()),
      scales(scale.data<char>()),
      biases(bias.data<char>()),
      storage(storage_of(scale)),
      out(static_cast<std::size_t>(scale.shape(0))),
      in(static_cast<std::size_t>(scale.shape(1)) * static_cast<std::size_t>(group)),
      bits(bit_count),
      group_size(group) {}

std::size_t QuantizedView::group_values(Range columns) const {
  return 2 * columns.size() / static_cast<std::size_t>(group_size);
}

QuantizedRow QuantizedView::row(std::size_t index, Range columns, float* values) const {
  const std::size_t groups = group_values(columns) / 2;
  const std::size_t first_group = (index * in + columns.begin) / static_cast<std::size_t>(group_size);
  kernels().widen(storage, scales + first_group * storage_bytes(storage), groups, values);
  kernels().widen(storage, biases + first_group * storage_bytes(storage), groups, values + groups);
  const std::size_t first_word = (index * in + columns.begin) / 32 * static_cast<std::size_t>(bits);
  return {words + first_word, values, values + groups, bits, group_size};
}

BlockedWeight<float> f32_blocks(const QuantizedView& matrix) {
  const auto block = [matrix](Range out, Range in) -> Operand<float> {
    float* wide = scratch<float>(Slot::weights, out.size() * in.size());
    float* values = scratch<float>(Slot::group_values, matrix.group_values(in));
    for (std::size_t row = out.begin; row < out.end; ++row) {
      kernels().dequantize(matrix.row(row, in, values), in.size(), wide + (row - out.begin) * in.size());
    }
    return {wide, in.size()};
  };
  return {matrix.out, matrix.in, block};
}

}  // namespace optiq::kernels::cpu
