#include "cpu_ops.h"
#include "primitive.h"
#include "products.h"

namespace optiq::kernels::cpu {

mx::array gram(const mx::array& x, Compute compute) {
  const int n = x.shape(-1);
  const auto run = [rounded = compute != Compute::f32](const Arrays& in, Arrays& out) {
    const auto width = static_cast<std::size_t>(in[0].shape(-1));
    const auto* rows = in[0].data<float>();
    auto* sums = out[0].data<float>();
    if (rounded) {
      multiply_by_own_transpose(rounded_to_bf16(rows, in[0].size()).data(), width, row_count(in[0]), sums);
    } else {
      multiply_by_own_transpose(rows, width, row_count(in[0]), sums);
    }
  };
  return make_array({"gram", run}, {n, n}, {x});
}

}  // namespace optiq::kernels::cpu
