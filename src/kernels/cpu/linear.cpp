#include "bias.h"
#include "cpu_ops.h"
#include "matrix.h"
#include "primitive.h"

namespace optiq::kernels::cpu {
namespace {

/// in: x, weight, [bias].
void forward(const Arrays& in, Arrays& out, Compute compute) {
  multiply(in[0], dense_matrix(in[1]), bias_values(in, 2), compute, out[0]);
}

/// in: dy, weight.
void input_gradient(const Arrays& in, Arrays& out, Compute compute) {
  const float* dy = in[0].data<float>();
  const std::size_t rows = row_count(in[0]);
  const Matrix weight = dense_matrix(in[1]);
  if (compute == Compute::f32) return multiply_by(dy, rows, f32_blocks(weight), out[0].data<float>());
  multiply_by(rounded_to_bf16(dy, in[0].size()).data(), rows, bf16_blocks(weight), out[0].data<float>());
}

/// in: dy, x.
void weight_gradient(const Arrays& in, Arrays& out, Compute compute) {
  const float *dy = in[0].data<float>(), *x = in[1].data<float>();
  const std::size_t rows = row_count(in[0]);
  const auto m = static_cast<std::size_t>(in[0].shape(-1)), n = static_cast<std::size_t>(in[1].shape(-1));
  if (compute == Compute::f32) return multiply_transposed(dy, m, x, n, rows, out[0].data<float>());
  multiply_transposed(rounded_to_bf16(dy, in[0].size()).data(), m, rounded_to_bf16(x, in[1].size()).data(), n,
                      rows, out[0].data<float>());
}

mx::array gradient(const Arrays& primals, const mx::array& dy, int argument, Compute compute) {
  if (argument == 0) {
    return make_array(
        {"linear_input_gradient", [=](const Arrays& in, Arrays& out) { input_gradient(in, out, compute); }},
        primals[0].shape(), {dy, primals[1]});
  }
  if (argument == 1) {
    return make_array(
        {"linear_weight_gradient", [=](const Arrays& in, Arrays& out) { weight_gradient(in, out, compute); }},
        primals[1].shape(), {dy, primals[0]});
  }
  return bias_gradient(dy);
}

}  // namespace

mx::array linear(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias,
                 Compute compute) {
  const auto vjp = [compute](const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                             const Arrays&) {
    Arrays gradients;
    for (const int argument : argnums)
      gradients.push_back(gradient(primals, cotangents[0], argument, compute));
    return gradients;
  };
  mx::Shape shape = x.shape();
  shape.back() = weight.shape(0);
  Arrays inputs{x, weight};
  if (bias) inputs.push_back(*bias);
  return make_array({"linear", [=](const Arrays& in, Arrays& out) { forward(in, out, compute); }, vjp},
                    std::move(shape), std::move(inputs));
}

}  // namespace optiq::kernels::cpu
