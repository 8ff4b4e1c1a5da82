#include "bias.h"
#include "cpu_ops.h"
#include "optiq/base/threads.h"
#include "quantized.h"
#include "scratch.h"

namespace optiq::kernels::cpu {
namespace {

/// At most kDotRows rows: each weight row is unpacked once.
void few_rows(const float* x, std::size_t rows, const QuantizedView& w, std::span<const float> bias,
              float* y) {
  const Range columns{0, w.in};
  parallel_for(w.out, 1 + 65536 / w.in, [&](std::size_t begin, std::size_t end) {
    float* values = scratch<float>(Slot::group_values, w.group_values(columns));
    float sums[kDotRows];
    for (std::size_t o = begin; o < end; ++o) {
      kernels().quantized_dot(w.row(o, columns, values), w.in, x, w.in, rows, sums);
      for (std::size_t r = 0; r < rows; ++r) y[r * w.out + o] = sums[r] + (bias.empty() ? 0.0f : bias[o]);
    }
  });
}

/// in: x, weight, scales, biases, [bias].
void forward(const Arrays& in, Arrays& out, int bits, int group_size) {
  const QuantizedView weight(in[1], in[2], in[3], bits, group_size);
  const std::vector<float> bias = bias_values(in, 4);
  const std::size_t rows = row_count(in[0]);
  if (rows <= kDotRows) return few_rows(in[0].data<float>(), rows, weight, bias, out[0].data<float>());
  multiply_by_transpose(in[0].data<float>(), rows, f32_blocks(weight), bias, out[0].data<float>());
}

/// in: dy, weight, scales, biases.
void input_gradient(const Arrays& in, Arrays& out, int bits, int group_size) {
  const QuantizedView weight(in[1], in[2], in[3], bits, group_size);
  multiply_by(in[0].data<float>(), row_count(in[0]), f32_blocks(weight), out[0].data<float>());
}

}  // namespace

mx::array quantized_linear(const mx::array& x, const QuantizedWeight& weight,
                           const std::optional<mx::array>& bias) {
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
      {"quantized_linear", [=](const Arrays& in, Arrays& out) { forward(in, out, bits, group_size); }, vjp},
      std::move(shape), std::move(inputs));
}

}  // namespace optiq::kernels::cpu
