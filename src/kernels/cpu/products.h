// Dense products of whole matrices, cut into tiles that run on base's pool. Tiles depend on shapes only, so
// results do not depend on the number of threads.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "gemm.h"
#include "optiq/kernels/cpu.h"

namespace optiq::kernels::cpu {

struct Range {
  std::size_t begin = 0, end = 0;
  [[nodiscard]] std::size_t size() const { return end - begin; }
};

/// [0, count) in even pieces of about `target`, each but the last a multiple of 16 long.
std::vector<Range> split(std::size_t count, std::size_t target);

/// A weight matrix [out, in] that is read block by block; T is float, or std::uint16_t for bf16.
template <class T>
struct BlockedWeight {
  std::size_t out = 0, in = 0;
  /// Rows `out` × columns `in` of the matrix, converted into this thread's scratch where it is not stored as
  /// T; valid until the thread's next call. `in` begins and ends at multiples of 128 or at the matrix's edge.
  std::function<Operand<T>(Range out, Range in)> block;
  bool in_place = false;  ///< block() copies nothing: no need to cut the inner dimension
};

/// y (=|+=) x[rows, in]·Wᵀ + bias, as `use` says (its matrix is not read).
template <class T>
void multiply_by_transpose(const T* x, std::size_t rows, const BlockedWeight<T>& weight, const Use& use);

/// dx[rows, in] = dy[rows, out]·W.
template <class T>
void multiply_by(const T* dy, std::size_t rows, const BlockedWeight<T>& weight, float* dx);

/// c[m, n] = a[rows, m]ᵀ·b[rows, n].
template <class T>
void multiply_transposed(const T* a, std::size_t m, const T* b, std::size_t n, std::size_t rows, float* c);

/// c[n, n] = a[rows, n]ᵀ·a, exactly symmetric; half the work.
template <class T>
void multiply_by_own_transpose(const T* a, std::size_t n, std::size_t rows, float* c);

/// x rounded to bf16.
std::vector<std::uint16_t> rounded_to_bf16(const float* x, std::size_t count);

}  // namespace optiq::kernels::cpu
