#include "attention.h"

#include "cpu_ops.h"
#include "primitive.h"

namespace optiq::kernels::cpu {
namespace {

AttentionShape shape_of(const Arrays& in, float scale, int window) {
  const auto size = [&](std::size_t array, int axis) {
    return static_cast<std::size_t>(in[array].shape(axis));
  };
  return {size(0, 0), size(0, 1), size(1, 1),
          size(0, 2), size(1, 2), size(0, 3),
          size(2, 3), scale,      static_cast<std::size_t>(window)};
}

/// in: q, k, v.
void forward(const Arrays& in, Arrays& out, float scale, int window) {
  attention_forward(shape_of(in, scale, window), in[0].data<float>(), in[1].data<float>(),
                    in[2].data<float>(), out[0].data<float>());
}

/// in: q, k, v, dy.
void backward(const Arrays& in, Arrays& out, float scale, int window) {
  attention_backward(shape_of(in, scale, window), in[0].data<float>(), in[1].data<float>(),
                     in[2].data<float>(), in[3].data<float>(), out[0].data<float>(), out[1].data<float>(),
                     out[2].data<float>());
}

}  // namespace

mx::array attention(const mx::array& q, const mx::array& k, const mx::array& v, float scale, int window) {
  const auto vjp = [=](const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                       const Arrays&) {
    const Arrays all = make_arrays(
        {"attention_gradient", [=](const Arrays& in, Arrays& out) { backward(in, out, scale, window); }},
        {primals[0].shape(), primals[1].shape(), primals[2].shape()}, {mx::float32, mx::float32, mx::float32},
        {primals[0], primals[1], primals[2], cotangents[0]});
    Arrays gradients;
    for (const int argument : argnums) gradients.push_back(all[static_cast<std::size_t>(argument)]);
    return gradients;
  };
  return make_array(
      {"attention", [=](const Arrays& in, Arrays& out) { forward(in, out, scale, window); }, vjp},
      {q.shape(0), q.shape(1), q.shape(2), v.shape(3)}, {q, k, v});
}

}  // namespace optiq::kernels::cpu
