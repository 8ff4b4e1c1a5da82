#include "bias.h"
#include "cpu_ops.h"
#include "matrix.h"

namespace optiq::kernels::cpu {
namespace {

/// in: x, weight, scales, biases, [bias].
void forward(const Arrays& in, Arrays& out, int bits, int group_size, Compute compute) {
  multiply(in[0], quantized_matrix(in[1], in[2], in[3], bits, group_size), bias_values(in, 4), compute,
           out[0]);
}

/// in: dy, weight, scales, biases.
void input_gradient(const Arrays& in, Arrays& out, int bits, int group_size) {
  const Matrix weight = quantized_matrix(in[1], in[2], in[3], bits, group_size);
  multiply_by(in[0].data<float>(), row_count(in[0]), f32_blocks(weight), out[0].data<float>());
}

}  // namespace

mx::array quantized_linear(const mx::array& x, const QuantizedWeight& weight,
                           const std::optional<mx::array>& bias, Compute compute) {
  const int bits = weight.bits, group_size = weight.group_size;
  const auto gradient = [=](const Arrays& primals, const mx::array& dy, int argument) {
    if (argument == 4) return bias_gradient(dy);
    if (argument != 0) throw std::invalid_argument("quantized_linear: weight: has no gradient");
    return make_array({"quantized_linear_input_gradient",
                       [=](const Arrays& in, Arrays& out) { input_gradient(in, out, bits, group_size); }},
                      primals[0].shape(), {dy, primals[1], primals[2], primals[3]});
  };
  const auto vjp = [gradient](const Arrays& primals, const Arrays& cotangents,
                              const std::vector<int>& argnums, const Arrays&) {
    Arrays gradients;
    for (const int argument : argnums) gradients.push_back(gradient(primals, cotangents[0], argument));
    return gradients;
  };
  mx::Shape shape = x.shape();
  shape.back() = weight.weight.shape(0);
  Arrays inputs{x, weight.weight, weight.scales, weight.biases};
  if (bias) inputs.push_back(*bias);
  return make_array(
      {"quantized_linear",
       [=](const Arrays& in, Arrays& out) { forward(in, out, bits, group_size, compute); }, vjp},
      std::move(shape), std::move(inputs));
}

}  // namespace optiq::kernels::cpu
