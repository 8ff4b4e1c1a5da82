#include "contiguous.h"

#include <cstring>

#include "optiq/base/threads.h"

namespace optiq::kernels::cpu {
namespace {

namespace mx = mlx::core;

/// Byte offset of row `row` (all axes but the last) of a strided array.
std::int64_t row_offset(const mx::array& array, std::size_t row) {
  std::int64_t elements = 0;
  for (int axis = static_cast<int>(array.ndim()) - 2; axis >= 0; --axis) {
    const auto size = static_cast<std::size_t>(array.shape(axis));
    elements += static_cast<std::int64_t>(row % size) * array.strides(axis);
    row /= size;
  }
  return elements * static_cast<std::int64_t>(array.itemsize());
}

template <class T>
void gather(const char* from, std::int64_t stride, std::size_t count, char* to) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t at = static_cast<std::int64_t>(i) * stride * static_cast<std::int64_t>(sizeof(T));
    std::memcpy(to + i * sizeof(T), from + at, sizeof(T));
  }
}

void copy_row(const char* from, std::int64_t stride, std::size_t count, std::size_t item, char* to) {
  if (stride == 1) {
    std::memcpy(to, from, count * item);
  } else if (item == 4) {
    gather<std::uint32_t>(from, stride, count, to);
  } else {
    gather<std::uint16_t>(from, stride, count, to);
  }
}

}  // namespace

mx::array row_contiguous(const mx::array& array) {
  if (array.flags().row_contiguous || array.size() == 0) return array;
  mx::array copy(mx::allocator::malloc(array.nbytes()), array.shape(), array.dtype());
  const auto width = static_cast<std::size_t>(array.shape(-1));
  const std::size_t item = array.itemsize();
  const char* from = array.data<char>();
  char* to = copy.data<char>();
  parallel_for(array.size() / width, 16 + 16384 / width, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      copy_row(from + row_offset(array, row), array.strides(-1), width, item, to + row * width * item);
    }
  });
  return copy;
}

}  // namespace optiq::kernels::cpu
