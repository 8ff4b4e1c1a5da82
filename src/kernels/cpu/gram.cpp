#include "cpu_ops.h"
#include "primitive.h"
#include "products.h"

namespace optiq::kernels::cpu {

mx::array gram(const mx::array& x) {
  const int n = x.shape(-1);
  const auto compute = [](const Arrays& in, Arrays& out) {
    multiply_by_own_transpose(in[0].data<float>(), static_cast<std::size_t>(in[0].shape(-1)),
                              row_count(in[0]), out[0].data<float>());
  };
  return make_array({"gram", compute}, {n, n}, {x});
}

}  // namespace optiq::kernels::cpu
