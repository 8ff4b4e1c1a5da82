#include "cpu_ops.h"
#include "optiq/base/threads.h"
#include "primitive.h"

namespace optiq::kernels::cpu {
namespace {

constexpr std::size_t kGrain = 16384;

void forward(const Arrays& in, Arrays& out) {
  const float *gate = in[0].data<float>(), *up = in[1].data<float>();
  float* y = out[0].data<float>();
  parallel_for(in[0].size(), kGrain, [&](std::size_t begin, std::size_t end) {
    kernels().swiglu(gate + begin, up + begin, end - begin, y + begin);
  });
}

/// in: gate, up, dy.
void backward(const Arrays& in, Arrays& out) {
  const float *gate = in[0].data<float>(), *up = in[1].data<float>(), *dy = in[2].data<float>();
  float *dgate = out[0].data<float>(), *dup = out[1].data<float>();
  parallel_for(in[0].size(), kGrain, [&](std::size_t begin, std::size_t end) {
    kernels().swiglu_vjp(gate + begin, up + begin, dy + begin, end - begin, dgate + begin, dup + begin);
  });
}

Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums, const Arrays&) {
  const mx::Shape& shape = primals[0].shape();
  const Arrays both = make_arrays({"swiglu_gradient", backward}, {shape, shape}, {mx::float32, mx::float32},
                                  {primals[0], primals[1], cotangents[0]});
  Arrays gradients;
  for (const int argument : argnums) gradients.push_back(both[static_cast<std::size_t>(argument)]);
  return gradients;
}

}  // namespace

mx::array swiglu(const mx::array& gate, const mx::array& up) {
  return make_array({"swiglu", forward, vjp}, gate.shape(), {gate, up});
}

}  // namespace optiq::kernels::cpu
