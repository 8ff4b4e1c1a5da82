#include "optiq/kernels/head_rotation.h"

#include <cmath>

#include "optiq/base/threads.h"

namespace optiq::kernels::cpu {
namespace {

void mix_head(float* x, std::size_t n) {
  for (std::size_t half = 1; half < n; half *= 2) {
    for (std::size_t begin = 0; begin < n; begin += 2 * half) {
      for (std::size_t i = begin; i < begin + half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
  }
  const float scale = 1.0f / std::sqrt(static_cast<float>(n));
  for (std::size_t i = 0; i < n; ++i) x[i] *= scale;
}

}  // namespace

void mix_heads(const Rows& x, std::size_t heads, std::size_t head_dim) {
  parallel_for(x.count, 8, [&](std::size_t begin, std::size_t end) {
    for (std::size_t r = begin; r < end; ++r) {
      for (std::size_t h = 0; h < heads; ++h) mix_head(x.data + r * x.stride + h * head_dim, head_dim);
    }
  });
}

}  // namespace optiq::kernels::cpu
