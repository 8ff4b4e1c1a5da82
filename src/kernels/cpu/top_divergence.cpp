// KL against the most probable tokens and one tail (ops.h). Sums over a vocabulary are compensated (exp_sum).
#include <algorithm>
#include <cmath>
#include <numeric>

#include "cpu_ops.h"
#include "optiq/base/threads.h"
#include "primitive.h"
#include "softmax.h"

namespace optiq::kernels::cpu {
namespace {

constexpr double kLeastTail = 1e-9;

/// in: logits. out: tokens, log-probabilities, log tail.
void select(const Arrays& in, Arrays& out) {
  const Logits logits(in[0]);
  const auto count = static_cast<std::size_t>(out[0].shape(1));
  logits.for_each([&](std::size_t row) {
    const Softmax s = logits.softmax(row);
    std::vector<int> order(s.width);
    std::iota(order.begin(), order.end(), 0);
    std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                     [&](int a, int b) { return s.x[a] > s.x[b] || (s.x[a] == s.x[b] && a < b); });
    double kept = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const double log_probability = s.log_probability(order[i]);
      kept += std::exp(log_probability);
      out[0].data<int>()[row * count + i] = order[i];
      out[1].data<float>()[row * count + i] = static_cast<float>(log_probability);
    }
    out[2].data<float>()[row] = static_cast<float>(std::log(std::max(1 - kept, kLeastTail)));
  });
}

/// Kept tokens and tail of one row, under the reference (p) and the logits (q).
struct Row {
  const int* tokens;
  const float* log_p;
  double log_p_tail;
  std::size_t count;
  Softmax q;

  /// in: logits, tokens, log-probabilities, log tail.
  Row(const Arrays& in, const Logits& logits, std::size_t row)
      : tokens(in[1].data<int>() + row * static_cast<std::size_t>(in[1].shape(1))),
        log_p(in[2].data<float>() + row * static_cast<std::size_t>(in[1].shape(1))),
        log_p_tail(in[3].data<float>()[row]),
        count(static_cast<std::size_t>(in[1].shape(1))),
        q(logits.softmax(row)) {}

  [[nodiscard]] double q_tail() const {
    double kept = 0;
    for (std::size_t i = 0; i < count; ++i) kept += std::exp(q.log_probability(tokens[i]));
    return std::max(1 - kept, kLeastTail);
  }
};

bool in_vocabulary(const Row& row) {
  return std::all_of(row.tokens, row.tokens + row.count,
                     [&](int token) { return token >= 0 && static_cast<std::size_t>(token) < row.q.width; });
}

/// A token outside the vocabulary gives NaN: it is only known when the work is done.
void forward(const Arrays& in, Arrays& out) {
  const Logits logits(in[0]);
  logits.for_each([&](std::size_t index) {
    const Row row(in, logits, index);
    float& y = out[0].data<float>()[index];
    y = NAN;
    if (!in_vocabulary(row)) return;
    double sum = std::exp(row.log_p_tail) * (row.log_p_tail - std::log(row.q_tail()));
    for (std::size_t i = 0; i < row.count; ++i) {
      const auto log_p = static_cast<double>(row.log_p[i]);
      sum += std::exp(log_p) * (log_p - row.q.log_probability(row.tokens[i]));
    }
    y = static_cast<float>(sum);
  });
}

/// dlogits = dy·(q − p), where a token of the tail has p = p_tail·q/q_tail. in: as forward, dy.
void backward(const Arrays& in, Arrays& out) {
  const Logits logits(in[0]);
  logits.for_each([&](std::size_t index) {
    const Row row(in, logits, index);
    float* gradient = out[0].data<float>() + index * row.q.width;
    const auto dy = static_cast<double>(in[4].data<float>()[index]);
    const double tail = in_vocabulary(row) ? 1 - std::exp(row.log_p_tail) / row.q_tail() : NAN;
    kernels().exp_shifted(row.q.x, row.q.width, row.q.top, static_cast<float>(dy * tail / row.q.sum),
                          gradient);
    for (std::size_t i = 0; in_vocabulary(row) && i < row.count; ++i) {
      const double p = std::exp(static_cast<double>(row.log_p[i]));
      gradient[row.tokens[i]] = static_cast<float>(dy * (std::exp(row.q.log_probability(row.tokens[i])) - p));
    }
  });
}

Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums, const Arrays&) {
  if (argnums != std::vector<int>{0})
    throw std::invalid_argument("top_divergence: reference: has no gradient");
  Arrays inputs = primals;
  inputs.push_back(cotangents[0]);
  return {make_array({"top_divergence_gradient", backward}, primals[0].shape(), std::move(inputs))};
}

}  // namespace

TopProbabilities top_probabilities(const mx::array& logits, int count) {
  const int rows = logits.shape(0);
  const Arrays parts = make_arrays({"top_probabilities", select}, {{rows, count}, {rows, count}, {rows}},
                                   {mx::int32, mx::float32, mx::float32}, {logits});
  return {parts[0], parts[1], parts[2]};
}

mx::array top_divergence(const TopProbabilities& reference, const mx::array& logits) {
  return make_array({"top_divergence", forward, vjp}, {logits.shape(0)},
                    {logits, reference.tokens, reference.log_probabilities, reference.log_tail});
}

}  // namespace optiq::kernels::cpu
