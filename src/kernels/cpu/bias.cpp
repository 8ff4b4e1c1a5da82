#include "bias.h"

#include "optiq/base/threads.h"
#include "optiq/kernels/matrix.h"

namespace optiq::kernels::cpu {
namespace {

void sum_rows(const Arrays& in, Arrays& out) {
  const std::size_t rows = row_count(in[0]);
  const auto width = static_cast<std::size_t>(in[0].shape(-1));
  const float* dy = in[0].data<float>();
  float* sums = out[0].data<float>();
  parallel_for(width, 64, [&](std::size_t begin, std::size_t end) {
    std::vector<double> columns(end - begin, 0.0);
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t i = begin; i < end; ++i) columns[i - begin] += static_cast<double>(dy[r * width + i]);
    }
    for (std::size_t i = begin; i < end; ++i) sums[i] = static_cast<float>(columns[i - begin]);
  });
}

}  // namespace

std::vector<float> bias_values(const Arrays& inputs, std::size_t index) {
  if (index >= inputs.size()) return {};
  return float_values(inputs[index]);
}

mx::array bias_gradient(const mx::array& dy) {
  return make_array({"bias_gradient", sum_rows}, {dy.shape(-1)}, {dy});
}

}  // namespace optiq::kernels::cpu
