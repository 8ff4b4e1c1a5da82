#include "cpu_ops.h"
#include "matrix.h"
#include "optiq/base/threads.h"
#include "primitive.h"

namespace optiq::kernels::cpu {
namespace {

constexpr std::size_t kRowsAtOnce = 16;

/// in: weight, scales, biases.
void forward(const Arrays& in, Arrays& out, int bits, int group_size) {
  const Matrix matrix = quantized_matrix(in[0], in[1], in[2], bits, group_size);
  float* y = out[0].data<float>();
  parallel_for(matrix.out, kRowsAtOnce, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) read_row(matrix, row, y + row * matrix.in);
  });
}

/// Σ w·q and Σ w of one group; sixteen running sums each.
struct GroupSums {
  float weighted, plain;
};
GroupSums group_sums(const float* w, const float* q, std::size_t count) {
  constexpr std::size_t lanes = 16;  // groups are multiples of it
  float weighted[lanes] = {}, plain[lanes] = {};
  for (std::size_t i = 0; i < count; i += lanes) {
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      weighted[lane] += w[i + lane] * q[i + lane];
      plain[lane] += w[i + lane];
    }
  }
  GroupSums sums{0, 0};
  for (std::size_t lane = 0; lane < lanes; ++lane) {
    sums.weighted += weighted[lane];
    sums.plain += plain[lane];
  }
  return sums;
}

/// in: dW, weight, ones and zeros of the scales' shape (so that a row read back is its levels). out: dscales,
/// dbiases.
void backward(const Arrays& in, Arrays& out, int bits, int group_size) {
  const Matrix levels = quantized_matrix(in[1], in[2], in[3], bits, group_size);
  const auto group = static_cast<std::size_t>(group_size);
  const std::size_t groups = levels.in / group;
  const float* dw = in[0].data<float>();
  float* dscales = out[0].data<float>();
  float* dbiases = out[1].data<float>();
  parallel_for(levels.out, kRowsAtOnce, [&](std::size_t begin, std::size_t end) {
    std::vector<float> q(levels.in);
    for (std::size_t row = begin; row < end; ++row) {
      read_row(levels, row, q.data());
      for (std::size_t g = 0; g < groups; ++g) {
        const GroupSums sums = group_sums(dw + row * levels.in + g * group, q.data() + g * group, group);
        dscales[row * groups + g] = sums.weighted;
        dbiases[row * groups + g] = sums.plain;
      }
    }
  });
}

}  // namespace

mx::array dequantize(const QuantizedWeight& weight) {
  const int bits = weight.bits, group_size = weight.group_size;
  const auto vjp = [=](const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                       const Arrays&) {
    const Arrays gradients = make_arrays(
        {"dequantize_gradient", [=](const Arrays& in, Arrays& out) { backward(in, out, bits, group_size); }},
        {primals[1].shape(), primals[2].shape()}, {mx::float32, mx::float32},
        {cotangents[0], primals[0], mx::ones_like(primals[1]), mx::zeros_like(primals[2])});
    Arrays wanted;
    for (const int argument : argnums) {
      if (argument == 0) throw std::invalid_argument("dequantize: weight: has no gradient");
      wanted.push_back(gradients[static_cast<std::size_t>(argument - 1)]);
    }
    return wanted;
  };
  const mx::Shape shape{weight.scales.shape(0), weight.scales.shape(1) * group_size};
  return make_array(
      {"dequantize", [=](const Arrays& in, Arrays& out) { forward(in, out, bits, group_size); }, vjp}, shape,
      {weight.weight, weight.scales, weight.biases});
}

}  // namespace optiq::kernels::cpu
