// The CPU kernels on plain memory, without MLX: what the decoding engine is made of. The primitives of ops.h
// run the same code. All pointers are row-major; activations are f32. Every call returns when its work,
// spread over base's thread pool, is done. Results do not depend on the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "optiq/kernels/compute.h"

namespace optiq::kernels::cpu {

/// How the elements of a matrix are stored.
enum class Storage { f32, f16, bf16 };

/// Bytes of one element.
constexpr std::size_t storage_bytes(Storage storage) {
  return storage == Storage::f32 ? 4 : 2;
}

/// A weight matrix [out, in] where it lies: dense, or packed as quant/format.h says. Does not own its bytes.
struct Matrix {
  const void* data = nullptr;      ///< elements, or packed words; no alignment needed for words
  const void* scales = nullptr;    ///< [out, in/group_size]; null for a dense matrix
  const void* biases = nullptr;    ///< likewise
  Storage storage = Storage::f32;  ///< of the elements, or of scales and biases
  std::size_t out = 0, in = 0;
  int bits = 16, group_size = 0;  ///< 16 and 0: dense

  [[nodiscard]] bool is_quantized() const { return group_size > 0; }
  /// Of data, scales and biases.
  [[nodiscard]] std::size_t bytes() const;
};

/// One product that shares its input with others: y[r·stride + o] (=|+=) x[r]·W[o] + bias[o].
struct Use {
  const Matrix* matrix = nullptr;
  const float* bias = nullptr;  ///< [out], or null
  float* y = nullptr;
  std::size_t stride = 0;
  bool accumulate = false;
};

/// Multiplies rows of activations by weight matrices. Keeps its working memory: repeated calls of the same
/// sizes allocate nothing with int8 and quantized weights, nor in f32 with at most 4 rows. One caller at a
/// time.
class Multiplier {
 public:
  explicit Multiplier(Compute compute);
  ~Multiplier();
  Multiplier(Multiplier&&) noexcept;
  Multiplier& operator=(Multiplier&&) noexcept;

  /// All `uses` have matrices of `in` columns. x [rows, in]. Few rows (4, or with int8 and quantized weights
  /// what was measured to pay) read every weight where it lies; more go through unpacked panels (int8) or
  /// blocks in f32 or bf16 (docs/kernels.md). With Compute::int8, the error against exact arithmetic is that
  /// of rounding x to 8 bits a group: at most max|x|/254 of the group for each element.
  void run(const float* x, std::size_t rows, std::size_t in, std::span<const Use> uses);

 private:
  struct Memory;
  Compute compute_;
  std::unique_ptr<Memory> memory_;
};

/// Row `row` of a matrix in f32: y [in].
void read_row(const Matrix& matrix, std::size_t row, float* y);

/// Σ w[i]·x[i] over `n` stored values in a row, in f32 and in an order that depends on the instruction set.
/// On the calling thread alone.
float dot(Storage storage, const void* w, std::size_t n, const float* x);

/// Rows of a matrix of activations, `stride` floats apart.
struct Rows {
  float* data = nullptr;
  std::size_t stride = 0, count = 0, width = 0;
};

/// y[r] = x[r] / sqrt(mean(x[r]²) + eps) · weight, for `parts` parts of each row that are weight's width
/// (heads); y may be x.
void rms_norm(const Rows& x, std::size_t parts, const float* weight, float eps, const Rows& y);

/// y[r] = silu(gate[r]) · up[r].
void swiglu(const Rows& gate, const Rows& up, const Rows& y);

/// magnitude·cos and magnitude·sin of position · frequency for positions from `offset` on,
/// [tokens][frequencies]; angles in double.
struct RopeAngles {
  std::vector<float> cosine, sine;
  void fill(std::span<const float> frequencies, std::size_t offset, std::size_t tokens, float magnitude);
};

/// Turns the first `heads` parts of `head_dim` of row r by the r-th angles, in place: pairs (i, i + n) of
/// each head for the n frequencies; other channels stay.
void rotate_heads(const Rows& x, std::size_t heads, std::size_t head_dim, const RopeAngles& angles);

}  // namespace optiq::kernels::cpu
