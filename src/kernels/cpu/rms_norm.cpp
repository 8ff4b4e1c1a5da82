#include <algorithm>

#include "cpu_ops.h"
#include "optiq/base/threads.h"
#include "primitive.h"

namespace optiq::kernels::cpu {
namespace {

struct Rows {
  const float* x;
  std::vector<float> buffer;  ///< the weight where it is not f32
  const float* weight;
  std::size_t count, width;

  Rows(const mx::array& activations, const mx::array& scale)
      : x(activations.data<float>()),
        weight(widened(scale, buffer)),
        count(row_count(activations)),
        width(scale.size()) {}

  void for_each(const std::function<void(std::size_t)>& row) const {
    parallel_for(count, 1 + 8192 / (width + 1), [&](std::size_t begin, std::size_t end) {
      for (std::size_t r = begin; r < end; ++r) row(r);
    });
  }
};

void forward(const Arrays& in, Arrays& out, float eps) {
  const Rows rows(in[0], in[1]);
  float* y = out[0].data<float>();
  rows.for_each([&](std::size_t r) {
    kernels().rms_norm(rows.x + r * rows.width, rows.weight, rows.width, eps, y + r * rows.width);
  });
}

/// in: x, weight, dy.
void input_gradient(const Arrays& in, Arrays& out, float eps) {
  const Rows rows(in[0], in[1]);
  const float* dy = in[2].data<float>();
  float* dx = out[0].data<float>();
  rows.for_each([&](std::size_t r) {
    const std::size_t at = r * rows.width;
    kernels().rms_norm_vjp(rows.x + at, rows.weight, dy + at, rows.width, eps, dx + at);
  });
}

/// Σ over rows of dy·x/rms, each column summed in the order of the rows. in: x, weight, dy.
void weight_gradient(const Arrays& in, Arrays& out, float eps) {
  const Rows rows(in[0], in[1]);
  const float* dy = in[2].data<float>();
  float* dw = out[0].data<float>();
  std::vector<float> inverse(rows.count);
  rows.for_each(
      [&](std::size_t r) { inverse[r] = kernels().inverse_rms(rows.x + r * rows.width, rows.width, eps); });
  parallel_for(rows.width, 64, [&](std::size_t begin, std::size_t end) {
    std::fill(dw + begin, dw + end, 0.0f);
    for (std::size_t r = 0; r < rows.count; ++r) {
      const std::size_t at = r * rows.width + begin;
      kernels().add_product(dy + at, rows.x + at, inverse[r], end - begin, dw + begin);
    }
  });
}

}  // namespace

mx::array rms_norm(const mx::array& x, const mx::array& weight, float eps) {
  const auto vjp = [eps](const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                         const Arrays&) {
    const Arrays inputs{primals[0], primals[1], cotangents[0]};
    Arrays gradients;
    for (const int argument : argnums) {
      const auto compute = argument == 0 ? input_gradient : weight_gradient;
      gradients.push_back(make_array({argument == 0 ? "rms_norm_input_gradient" : "rms_norm_weight_gradient",
                                      [=](const Arrays& in, Arrays& out) { compute(in, out, eps); }},
                                     primals[static_cast<std::size_t>(argument)].shape(), inputs));
    }
    return gradients;
  };
  return make_array({"rms_norm", [eps](const Arrays& in, Arrays& out) { forward(in, out, eps); }, vjp},
                    x.shape(), {x, weight});
}

}  // namespace optiq::kernels::cpu
