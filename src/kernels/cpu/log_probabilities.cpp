// The operations over rows of logits: sums run over whole vocabularies, so they are compensated (exp_sum) and
// logarithms are taken in double.
#include <algorithm>
#include <cmath>

#include "cpu_ops.h"
#include "primitive.h"
#include "softmax.h"

namespace optiq::kernels::cpu {
namespace {

constexpr std::size_t kDrawBlock = 256;

/// A label outside the vocabulary gives NaN: it is only known when the work is done.
void label_forward(const Arrays& in, Arrays& out) {
  const Logits logits(in[0]);
  const int* labels = in[1].data<int>();
  float* y = out[0].data<float>();
  logits.for_each([&](std::size_t row) {
    if (labels[row] < 0 || labels[row] >= in[0].shape(1)) {
      y[row] = NAN;
      return;
    }
    const Softmax s = logits.softmax(row);
    y[row] = static_cast<float>(s.log_probability(labels[row]));
  });
}

/// dlogits = dy·(onehot − softmax). in: logits, labels, dy.
void label_backward(const Arrays& in, Arrays& out) {
  const Logits logits(in[0]);
  const int* labels = in[1].data<int>();
  const float* dy = in[2].data<float>();
  float* dx = out[0].data<float>();
  logits.for_each([&](std::size_t row) {
    const Softmax s = logits.softmax(row);
    float* gradient = dx + row * s.width;
    kernels().exp_shifted(s.x, s.width, s.top, static_cast<float>(-static_cast<double>(dy[row]) / s.sum),
                          gradient);
    if (labels[row] >= 0 && labels[row] < in[0].shape(1)) gradient[labels[row]] += dy[row];
  });
}

Arrays label_vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                 const Arrays&) {
  if (argnums != std::vector<int>{0}) {
    throw std::invalid_argument("label_log_probabilities: labels: has no gradient");
  }
  return {make_array({"label_log_probabilities_gradient", label_backward}, primals[0].shape(),
                     {primals[0], primals[1], cotangents[0]})};
}

/// KL = Σ p·(q/p − 1 + t) with t = log(p/q), as the q sum to 1: every term is ≥ 0, and an error η in the
/// normalisation enters as η²/2 only, so that small divergences are exact to f32 too.
void kl_forward(const Arrays& in, Arrays& out) {
  const Logits reference(in[0]), logits(in[1]);
  float* y = out[0].data<float>();
  reference.for_each([&](std::size_t row) {
    const Softmax p = reference.softmax(row), q = logits.softmax(row);
    const double tops = static_cast<double>(p.top) - static_cast<double>(q.top);
    const auto shift = static_cast<float>(tops + std::log(p.sum) - std::log(q.sum));
    const auto ratio = static_cast<float>(p.sum / q.sum);
    y[row] =
        static_cast<float>(kernels().divergence_sum(p.x, p.top, q.x, q.top, shift, ratio, p.width) / p.sum);
  });
}

/// The first of x[0, count) at which `before` plus the weights so far exceeds `target`, or `count`; `before`
/// then includes what was passed.
std::size_t passes(const float* x, std::size_t count, float top, double target, double& before) {
  float weights[kDrawBlock];
  kernels().exp_shifted(x, count, top, 1.0f, weights);
  for (std::size_t i = 0; i < count; ++i) {
    before += static_cast<double>(weights[i]);
    if (before > target) return i;
  }
  return count;
}

/// The first index whose cumulative weight exceeds `target` < sum, so never one of probability 0. Sums of
/// whole blocks find the block; where rounding leaves none, the last index that has any weight is drawn.
std::size_t draw(const Softmax& s, double target) {
  double before = 0;
  for (std::size_t begin = 0; begin < s.width; begin += kDrawBlock) {
    const std::size_t count = std::min(kDrawBlock, s.width - begin);
    const double block = kernels().exp_sum(s.x + begin, count, s.top);
    if (before + block <= target) {
      before += block;
      continue;
    }
    const std::size_t found = passes(s.x + begin, count, s.top, target, before);
    if (found < count) return begin + found;
  }
  std::size_t last = s.width - 1;
  while (last > 0 && kernels().exp_sum(s.x + last, 1, s.top) == 0) --last;
  return last;
}

void sample_forward(const Arrays& in, Arrays& out) {
  const Logits logits(in[0]);
  const float* uniforms = in[1].data<float>();
  int* y = out[0].data<int>();
  logits.for_each([&](std::size_t row) {
    const Softmax s = logits.softmax(row);
    y[row] = static_cast<int>(draw(s, static_cast<double>(uniforms[row]) * s.sum));
  });
}

}  // namespace

mx::array label_log_probabilities(const mx::array& logits, const mx::array& labels) {
  return make_array({"label_log_probabilities", label_forward, label_vjp}, labels.shape(), {logits, labels});
}

mx::array kl_divergence(const mx::array& reference, const mx::array& logits) {
  return make_array({"kl_divergence", kl_forward}, {reference.shape(0)}, {reference, logits});
}

mx::array sample_rows(const mx::array& logits, const mx::array& uniforms) {
  return make_arrays({"sample_rows", sample_forward}, {uniforms.shape()}, {mx::int32}, {logits, uniforms})[0];
}

}  // namespace optiq::kernels::cpu
