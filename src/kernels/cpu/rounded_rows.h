// Activations rounded to int8 (Int8Rows, isa.h), once for each layout that the matrices of a call want.
#pragma once

#include <vector>

#include "buffer.h"
#include "isa.h"

namespace optiq::kernels::cpu {

/// The layouts of one input. Memory is kept from input to input.
class RoundedRows {
 public:
  /// A new input: x [rows, in], which must stay valid until the next one.
  void begin(const float* x, std::size_t rows, std::size_t in);

  /// The input rounded in groups of `group_size`, in the order that int8_dot wants for `order_bits` (0: own
  /// order). Rounded when first asked for; call from one thread.
  Int8Rows rows(int group_size, int order_bits);

 private:
  struct Layout {
    int group_size = 0, order_bits = 0;
    bool current = false;
    GrowingBuffer<std::int8_t> values;
    GrowingBuffer<float> scales, sums;
  };
  Layout& find(int group_size, int order_bits);
  void round(Layout& layout) const;

  const float* x_ = nullptr;
  std::size_t rows_ = 0, in_ = 0;
  std::vector<Layout> layouts_;
};

/// `x` from row `row` on.
inline Int8Rows from_row(const Int8Rows& x, std::size_t row) {
  return {x.values + row * x.value_stride, x.scales + row * x.group_stride, x.sums + row * x.group_stride,
          x.value_stride, x.group_stride};
}

}  // namespace optiq::kernels::cpu
