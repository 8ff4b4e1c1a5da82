#include "products.h"

#include <algorithm>

#include "isa.h"
#include "optiq/base/threads.h"

namespace optiq::kernels::cpu {
namespace {

/// Converted blocks are cut along the inner dimension to stay in the cache.
constexpr std::size_t kInnerBlock = 1024;

/// Tiles of about 128 columns; few columns are made up for by more row pieces, so that all cores get work.
struct Tiles {
  std::vector<Range> rows, columns;

  Tiles(std::size_t row_count, std::size_t column_count)
      : rows(split(row_count, column_count >= 1024 ? 512 : 128)), columns(split(column_count, 128)) {}

  void run(const std::function<void(Range, Range)>& tile) const {
    parallel_for(rows.size() * columns.size(), 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) tile(rows[i % rows.size()], columns[i / rows.size()]);
    });
  }
};

std::vector<Range> inner_blocks(std::size_t count, bool in_place) {
  std::vector<Range> blocks;
  const std::size_t step = in_place ? count : kInnerBlock;
  for (std::size_t begin = 0; begin < count; begin += step)
    blocks.push_back({begin, std::min(begin + step, count)});
  return blocks;
}

void add_bias(const Use& use, Range rows, Range columns) {
  if (use.bias == nullptr) return;
  for (std::size_t r = rows.begin; r < rows.end; ++r) {
    kernels().add_scaled(1.0f, use.bias + columns.begin, columns.size(),
                         use.y + r * use.stride + columns.begin);
  }
}

}  // namespace

std::vector<Range> split(std::size_t count, std::size_t target) {
  std::vector<Range> pieces;
  if (count == 0) return pieces;
  const std::size_t wanted = (count + target - 1) / target;
  const std::size_t step = ((count + wanted - 1) / wanted + 15) / 16 * 16;
  for (std::size_t begin = 0; begin < count; begin += step)
    pieces.push_back({begin, std::min(begin + step, count)});
  return pieces;
}

template <class T>
void multiply_by_transpose(const T* x, std::size_t rows, const BlockedWeight<T>& weight, const Use& use) {
  Tiles(rows, weight.out).run([&](Range r, Range o) {
    for (const Range k : inner_blocks(weight.in, weight.in_place)) {
      Operand<T> w = weight.block(o, k);
      w.transposed = true;
      multiply(Product<T>{r.size(),
                          o.size(),
                          k.size(),
                          {x + r.begin * weight.in + k.begin, weight.in},
                          w,
                          use.y + r.begin * use.stride + o.begin,
                          use.stride,
                          use.accumulate || k.begin > 0});
    }
    add_bias(use, r, o);
  });
}

template <class T>
void multiply_by(const T* dy, std::size_t rows, const BlockedWeight<T>& weight, float* dx) {
  Tiles(rows, weight.in).run([&](Range r, Range i) {
    for (const Range k : inner_blocks(weight.out, weight.in_place)) {
      multiply(Product<T>{r.size(),
                          i.size(),
                          k.size(),
                          {dy + r.begin * weight.out + k.begin, weight.out},
                          weight.block(k, i),
                          dx + r.begin * weight.in + i.begin,
                          weight.in,
                          k.begin > 0});
    }
  });
}

template <class T>
void multiply_transposed(const T* a, std::size_t m, const T* b, std::size_t n, std::size_t rows, float* c) {
  Tiles(m, n).run([&](Range i, Range j) {
    multiply(Product<T>{
        i.size(), j.size(), rows, {a + i.begin, m, true}, {b + j.begin, n}, c + i.begin * n + j.begin, n});
  });
}

template <class T>
void multiply_by_own_transpose(const T* a, std::size_t n, std::size_t rows, float* c) {
  const std::vector<Range> pieces = split(n, 256);
  parallel_for(pieces.size() * pieces.size(), 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t tile = begin; tile < end; ++tile) {
      const Range i = pieces[tile / pieces.size()], j = pieces[tile % pieces.size()];
      if (i.begin > j.begin) continue;
      multiply(Product<T>{
          i.size(), j.size(), rows, {a + i.begin, n, true}, {a + j.begin, n}, c + i.begin * n + j.begin, n});
    }
  });
  parallel_for(n, 64, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      for (std::size_t j = 0; j < i; ++j) c[i * n + j] = c[j * n + i];
    }
  });
}

std::vector<std::uint16_t> rounded_to_bf16(const float* x, std::size_t count) {
  std::vector<std::uint16_t> bits(count);
  parallel_for(count, 65536, [&](std::size_t begin, std::size_t end) {
    kernels().narrow_bf16(x + begin, end - begin, &bits[begin]);
  });
  return bits;
}

template void multiply_by_transpose(const float*, std::size_t, const BlockedWeight<float>&, const Use&);
template void multiply_by_transpose(const std::uint16_t*, std::size_t, const BlockedWeight<std::uint16_t>&,
                                    const Use&);
template void multiply_by(const float*, std::size_t, const BlockedWeight<float>&, float*);
template void multiply_by(const std::uint16_t*, std::size_t, const BlockedWeight<std::uint16_t>&, float*);
template void multiply_transposed(const float*, std::size_t, const float*, std::size_t, std::size_t, float*);
template void multiply_transposed(const std::uint16_t*, std::size_t, const std::uint16_t*, std::size_t,
                                  std::size_t, float*);
template void multiply_by_own_transpose(const float*, std::size_t, std::size_t, float*);
template void multiply_by_own_transpose(const std::uint16_t*, std::size_t, std::size_t, float*);

}  // namespace optiq::kernels::cpu
