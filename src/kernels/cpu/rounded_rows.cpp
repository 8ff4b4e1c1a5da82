#include "rounded_rows.h"

#include "optiq/base/threads.h"

namespace optiq::kernels::cpu {

void RoundedRows::begin(const float* x, std::size_t rows, std::size_t in) {
  x_ = x;
  rows_ = rows;
  in_ = in;
  for (Layout& layout : layouts_) layout.current = false;
}

RoundedRows::Layout& RoundedRows::find(int group_size, int order_bits) {
  for (Layout& layout : layouts_) {
    if (layout.group_size == group_size && layout.order_bits == order_bits) return layout;
  }
  layouts_.push_back({group_size, order_bits, false, {}, {}, {}});
  return layouts_.back();
}

void RoundedRows::round(Layout& layout) const {
  const std::size_t value_stride = int8_row_bytes(in_),
                    group_stride = int8_row_groups(in_, layout.group_size);
  std::int8_t* values = layout.values.reserve(rows_ * value_stride);
  float* scales = layout.scales.reserve(rows_ * group_stride);
  float* sums = layout.sums.reserve(rows_ * group_stride);
  // One row is done here and now: waking the others would take longer.
  parallel_for(rows_, 4, [&](std::size_t begin, std::size_t end) {
    for (std::size_t r = begin; r < end; ++r) {
      kernels().int8_round(x_ + r * in_, in_, layout.group_size, layout.order_bits, values + r * value_stride,
                           scales + r * group_stride, sums + r * group_stride);
    }
  });
  layout.current = true;
}

Int8Rows RoundedRows::rows(int group_size, int order_bits) {
  Layout& layout = find(group_size, order_bits);
  if (!layout.current) round(layout);
  return {layout.values.data(), layout.scales.data(), layout.sums.data(), int8_row_bytes(in_),
          int8_row_groups(in_, group_size)};
}

}  // namespace optiq::kernels::cpu
