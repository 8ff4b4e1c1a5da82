// Operations on rows of activations on plain memory (optiq/kernels/cpu.h).
#include <algorithm>
#include <cmath>

#include "isa.h"
#include "optiq/base/threads.h"

namespace optiq::kernels::cpu {
namespace {

/// Columns of a task where a row is cut.
constexpr std::size_t kColumns = 2048;

}  // namespace

void rms_norm(const Rows& x, std::size_t parts, const float* weight, float eps, const Rows& y) {
  const std::size_t width = x.width / parts;
  parallel_for(x.count, 4, [&](std::size_t begin, std::size_t end) {
    for (std::size_t r = begin; r < end; ++r) {
      for (std::size_t part = 0; part < parts; ++part) {
        kernels().rms_norm(x.data + r * x.stride + part * width, weight, width, eps,
                           y.data + r * y.stride + part * width);
      }
    }
  });
}

void swiglu(const Rows& gate, const Rows& up, const Rows& y) {
  const std::size_t pieces = (gate.width + kColumns - 1) / kColumns;
  parallel_for(gate.count * pieces, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      const std::size_t r = i / pieces, c = i % pieces * kColumns;
      kernels().swiglu(gate.data + r * gate.stride + c, up.data + r * up.stride + c,
                       std::min(kColumns, gate.width - c), y.data + r * y.stride + c);
    }
  });
}

void RopeAngles::fill(std::span<const float> frequencies, std::size_t offset, std::size_t tokens,
                      float magnitude) {
  const std::size_t n = frequencies.size();
  cosine.resize(tokens * n);
  sine.resize(tokens * n);
  parallel_for(tokens, 16, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin * n; i < end * n; ++i) {
      const double angle = static_cast<double>(offset + i / n) * static_cast<double>(frequencies[i % n]);
      cosine[i] = static_cast<float>(static_cast<double>(magnitude) * std::cos(angle));
      sine[i] = static_cast<float>(static_cast<double>(magnitude) * std::sin(angle));
    }
  });
}

void rotate_heads(const Rows& x, std::size_t heads, std::size_t head_dim, const RopeAngles& angles) {
  const std::size_t n = x.count == 0 ? 0 : angles.cosine.size() / x.count;
  parallel_for(x.count, 8, [&](std::size_t begin, std::size_t end) {
    for (std::size_t r = begin; r < end; ++r) {
      for (std::size_t h = 0; h < heads; ++h) {
        float* head = x.data + r * x.stride + h * head_dim;
        kernels().rotate(head, &angles.cosine[r * n], &angles.sine[r * n], 1.0f, n, head);
      }
    }
  });
}

}  // namespace optiq::kernels::cpu
