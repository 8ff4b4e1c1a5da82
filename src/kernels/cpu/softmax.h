// Rows of logits as distributions.
#pragma once

#include <cmath>
#include <functional>

#include "optiq/base/threads.h"
#include "primitive.h"

namespace optiq::kernels::cpu {

/// One row of logits and the constants of its softmax: p[i] = exp(x[i] − top) / sum.
struct Softmax {
  const float* x;
  std::size_t width;
  float top;
  double sum;

  Softmax(const float* row, std::size_t n)
      : x(row), width(n), top(kernels().maximum(row, n)), sum(kernels().exp_sum(row, n, top)) {}

  [[nodiscard]] double log_probability(int token) const {
    return static_cast<double>(x[token]) - static_cast<double>(top) - std::log(sum);
  }
};

struct Logits {
  const float* data;
  std::size_t rows, width;

  explicit Logits(const mx::array& a)
      : data(a.data<float>()),
        rows(static_cast<std::size_t>(a.shape(0))),
        width(static_cast<std::size_t>(a.shape(1))) {}

  [[nodiscard]] Softmax softmax(std::size_t row) const { return {data + row * width, width}; }

  void for_each(const std::function<void(std::size_t)>& body) const {
    parallel_for(rows, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t row = begin; row < end; ++row) body(row);
    });
  }
};

}  // namespace optiq::kernels::cpu
