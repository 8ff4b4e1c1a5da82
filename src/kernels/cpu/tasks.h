// The rows of several matrices, cut into tasks that run on base's pool as one.
#pragma once

#include <algorithm>
#include <span>

#include "optiq/base/threads.h"
#include "products.h"

namespace optiq::kernels::cpu {

/// Weight rows of about 32 KiB: long enough to be worth handing out, short enough to share evenly.
inline std::size_t rows_of_a_task(const Matrix& w) {
  constexpr std::size_t kTaskBytes = 32 << 10;
  return std::clamp<std::size_t>(kTaskBytes * w.out / std::max<std::size_t>(w.bytes(), 1), 1, 1024);
}

/// Calls body(i, rows) for pieces of step(matrix) rows of every use's matrix, in parallel.
template <class Step, class Body>
void run_tasks(std::span<const Use> uses, Step step, Body body) {
  const auto pieces = [&](const Use& use) {
    return (use.matrix->out + step(*use.matrix) - 1) / step(*use.matrix);
  };
  std::size_t total = 0;
  for (const Use& use : uses) total += pieces(use);
  parallel_for(total, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t task = begin; task < end; ++task) {
      std::size_t i = 0, piece = task;
      for (; piece >= pieces(uses[i]); ++i) piece -= pieces(uses[i]);
      const std::size_t rows = step(*uses[i].matrix);
      body(i, Range{piece * rows, std::min((piece + 1) * rows, uses[i].matrix->out)});
    }
  });
}

}  // namespace optiq::kernels::cpu
