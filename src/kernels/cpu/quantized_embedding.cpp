#include <algorithm>
#include <cmath>

#include "cpu_ops.h"
#include "matrix.h"
#include "optiq/base/threads.h"
#include "primitive.h"

namespace optiq::kernels::cpu {
namespace {

/// in: tokens, weight, scales, biases. A token outside the table gives a row of NaN.
void forward(const Arrays& in, Arrays& out, int bits, int group_size) {
  const Matrix table = quantized_matrix(in[1], in[2], in[3], bits, group_size);
  const int* tokens = in[0].data<int>();
  float* y = out[0].data<float>();
  parallel_for(in[0].size(), 16, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      if (tokens[i] < 0 || static_cast<std::size_t>(tokens[i]) >= table.out) {
        std::fill_n(y + i * table.in, table.in, NAN);
      } else {
        read_row(table, static_cast<std::size_t>(tokens[i]), y + i * table.in);
      }
    }
  });
}

}  // namespace

mx::array quantized_embedding(const mx::array& tokens, const QuantizedWeight& table) {
  mx::Shape shape = tokens.shape();
  shape.push_back(table.scales.shape(1) * table.group_size);
  const int bits = table.bits, group_size = table.group_size;
  return make_array(
      {"quantized_embedding", [=](const Arrays& in, Arrays& out) { forward(in, out, bits, group_size); }},
      std::move(shape), {tokens, table.weight, table.scales, table.biases});
}

}  // namespace optiq::kernels::cpu
