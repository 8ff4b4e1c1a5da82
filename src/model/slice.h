// A part of an array along one axis.
#pragma once

#include <mlx/mlx.h>

namespace optiq::model {

/// [begin, end) along `axis`, all of the others: no copy.
inline mlx::core::array sliced(const mlx::core::array& x, int axis, int begin, int end) {
  mlx::core::Shape start(x.ndim(), 0), stop = x.shape();
  start[static_cast<std::size_t>(axis)] = begin;
  stop[static_cast<std::size_t>(axis)] = end;
  return mlx::core::slice(x, start, stop);
}

}  // namespace optiq::model
