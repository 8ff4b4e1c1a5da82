// The inner loops of the CPU kernels, one table of functions for each instruction set. All loops are pure
// functions of their arguments: the same table gives the same bits on every run and thread. Tables differ
// from each other in rounding only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "optiq/kernels/cpu.h"
#include "optiq/kernels/kv_cache.h"

namespace optiq::kernels::cpu {

/// A row, or a part of one, of a quantized matrix (quant/format.h): `words` and the group values start at the
/// part's first group; group scales and biases are already widened to f32.
struct QuantizedRow {
  const void* words;
  const float* scales;
  const float* biases;
  int bits;
  int group_size;
};

/// Up to kDotRows rows share one pass over a weight row.
inline constexpr std::size_t kDotRows = 4;

/// A whole quantized matrix as it is stored (quant/format.h): its three tensors, row-major, `in` a multiple
/// of the group size. The words need no alignment.
struct QuantizedRows {
  const void* words;
  const void* scales;
  const void* biases;
  Storage storage;  ///< of scales and biases
  std::size_t in;
  int bits, group_size;
};

/// Rows of activations rounded to int8, group by group: x ≈ scale·q with q in [−127, 127] and
/// scale = max|x|/127 of the group. Behind a row's own values and groups stand zeros up to the strides.
/// A product with weights q'·s + b is Σ over groups of s·scale·Σ q'·q + b·sum: exact in the rounded
/// activations but for f32 roundings. Σ q'·q of a group fits 24 bits (128·255·127).
struct Int8Rows {
  const std::int8_t* values;  ///< [rows][value_stride], 64-byte aligned
  const float* scales;        ///< [rows][group_stride]
  const float* sums;          ///< scale·Σ q, likewise
  std::size_t value_stride, group_stride;
};

/// Least strides of Int8Rows for rows of n values: whole steps of every table's loops.
constexpr std::size_t int8_row_bytes(std::size_t n) {
  return (n + 255) / 256 * 256;
}
constexpr std::size_t int8_row_groups(std::size_t n, int group_size) {
  return (n / static_cast<std::size_t>(group_size) + 15) / 16 * 16;
}

/// Some weight rows × some columns (whole groups), unpacked to bytes in the table's own layout.
struct Int8Panel {
  const std::uint8_t* values;  ///< [panel_rows · columns], 64-byte aligned
  const float* scales;         ///< [groups][panel_rows]; 0 for rows that do not exist
  const float* biases;         ///< likewise
  std::size_t groups;
  int group_size, bits;
};

/// From how many rows of activations on panels are faster than dot products, by the weights' bits: what
/// bench/int8_bench.cpp measured (bench/results/2026-11-25-cpu-speed.md), or an estimate where a table says
/// so.
struct PanelsFrom {
  std::size_t bits2, bits3, bits4, bits5, bits6, bits8;

  [[nodiscard]] constexpr std::size_t operator()(int bits) const {
    constexpr std::size_t PanelsFrom::*kMembers[]{&PanelsFrom::bits2, &PanelsFrom::bits3, &PanelsFrom::bits4,
                                                  &PanelsFrom::bits5, &PanelsFrom::bits6, nullptr,
                                                  &PanelsFrom::bits8};
    return this->*kMembers[bits - 2];
  }
};

/// Scale and middle of each step of packed tiles: a value is (q − middle)·scale + middles of its step. Taken
/// so, the error of what meets q counts with half the levels at most.
struct PackedSteps {
  const float *scales, *middles;
  std::size_t count;  ///< a multiple of kCacheSteps
  float middle;       ///< of the levels: (2^bits − 1)/2
};

/// Blocks of kCacheBlock lanes, each steps / kCacheSteps tiles (packed_tile.h), one after the other. They need
/// no alignment.
struct PackedBlocks {
  int bits;
  std::size_t blocks, steps;
  const void* tiles;
  const void* ahead;  ///< as many bytes that will be needed soon, or as `tiles`
};

/// Rows that meet packed tiles, in integers: x·scale of a step ≈ the row's scale · (128·high + low), a digit
/// of 8 bits each, low in [−64, 63]. Rounding errs by half the row's scale at most, which is the largest
/// |x·scale| / kLargestDigits: products with b bits err by steps·(2^b − 1)/2 times that, 2^-15 of what the
/// largest step may contribute, for each step. Offsets are what does not depend on q.
struct CacheRows {
  std::int8_t* digits;  ///< [steps / kDigitSteps, rounded up][rows][high, low][kDigitSteps]
  float *scales, *offsets;
  std::size_t rows;
};
inline constexpr std::size_t kDigitSteps = 64;
inline constexpr float kLargestDigits = 127 * 128 + 63;

struct KernelTable {
  const char* name;

  /// dst[i] = src[i], exactly.
  void (*widen)(Storage storage, const void* src, std::size_t n, float* dst);
  /// Round to nearest, ties to even; NaN stays NaN.
  void (*narrow_bf16)(const float* src, std::size_t n, std::uint16_t* dst);

  /// y[i] = factor · exp(x[i] − shift), exp within 2 ulp; y may be x.
  void (*exp_shifted)(const float* x, std::size_t n, float shift, float factor, float* y);
  /// The largest x[i]; NaN if any is; −∞ for n = 0.
  float (*maximum)(const float* x, std::size_t n);
  /// Σ exp(x[i] − shift), compensated: relative error of a few f32 roundings whatever n is.
  double (*exp_sum)(const float* x, std::size_t n, float shift);
  /// Σ w·f(t), f(t) = e^−t − 1 + t ≥ 0, for w = exp(a[i] − a_top) and t = (a[i] − b[i]) − shift, compensated;
  /// w·e^−t is taken as ratio·exp(b[i] − b_top). No cancellation for small t: a series is used there.
  double (*divergence_sum)(const float* a, float a_top, const float* b, float b_top, float shift, float ratio,
                           std::size_t n);
  /// x ← softmax(x), n ≥ 1.
  void (*softmax)(float* x, std::size_t n);
  /// dp ← scale · p · (dp − Σ p·dp): the gradient of scores from that of probabilities.
  void (*softmax_vjp)(const float* p, float* dp, std::size_t n, float scale);

  /// y[r] = Σ w[i]·x[r·stride + i] for r < rows ≤ kDotRows, f32 lanes.
  void (*dot)(Storage storage, const void* w, std::size_t n, const float* x, std::size_t stride,
              std::size_t rows, float* y);
  /// y += factor · x.
  void (*add_scaled)(float factor, const float* x, std::size_t n, float* y);
  /// y += factor · x · z.
  void (*add_product)(const float* x, const float* z, float factor, std::size_t n, float* y);

  /// 1/sqrt(mean(x²) + eps).
  float (*inverse_rms)(const float* x, std::size_t n, float eps);
  /// y = x·inverse_rms·weight.
  void (*rms_norm)(const float* x, const float* weight, std::size_t n, float eps, float* y);
  /// dx of rms_norm.
  void (*rms_norm_vjp)(const float* x, const float* weight, const float* dy, std::size_t n, float eps,
                       float* dx);

  /// y = silu(gate)·up.
  void (*swiglu)(const float* gate, const float* up, std::size_t n, float* y);
  void (*swiglu_vjp)(const float* gate, const float* up, const float* dy, std::size_t n, float* dgate,
                     float* dup);

  /// y[i] = x[i]·c[i] − x[i+n]·s[i], y[i+n] = x[i+n]·c[i] + x[i]·s[i]; `direction` −1 turns backwards.
  void (*rotate)(const float* x, const float* cosine, const float* sine, float direction, std::size_t n,
                 float* y);

  /// y = q·s + b; n a multiple of the group size.
  void (*dequantize)(const QuantizedRow& row, std::size_t n, float* y);
  /// dot with a quantized row, each weight q·s + b in f32.
  void (*quantized_dot)(const QuantizedRow& row, std::size_t n, const float* x, std::size_t stride,
                        std::size_t rows, float* y);

  /// Over one head's part of a cache page (optiq/kernels/kv_cache.h), `blocks` blocks of keys or n values:
  /// s[r·s_stride + key] = q[r]·key, and y[r] += Σ p[r·p_stride + i]·value[i]. int8 elements count as
  /// integers; nothing is packed.
  void (*cache_scores)(CacheStorage storage, const void* keys, std::size_t head_dim, std::size_t blocks,
                       const float* q, std::size_t q_stride, std::size_t rows, float* s,
                       std::size_t s_stride);
  void (*cache_values)(CacheStorage storage, const void* values, std::size_t head_dim, std::size_t n,
                       const float* p, std::size_t p_stride, std::size_t rows, float* y,
                       std::size_t y_stride);
  /// Rows [rows][steps.count], `x_stride` floats apart, times the steps' scales, into CacheRows of y.rows rows.
  void (*cache_digits)(const float* x, std::size_t x_stride, const PackedSteps& steps, const CacheRows& y);
  /// y[r·y_stride + b·kCacheBlock + lane] += Σ over steps of row r times block b.
  void (*cache_dots)(const PackedBlocks& blocks, const CacheRows& x, float* y, std::size_t y_stride);
  /// x ← exp(x − shift); returns Σ of the results.
  float (*exp_in_place)(float* x, std::size_t n, float shift);
  /// y = factor · x; y may be x.
  void (*scale)(const float* x, float factor, std::size_t n, float* y);
  /// y = x · z; y may be x.
  void (*multiply_elements)(const float* x, const float* z, std::size_t n, float* y);

  /// One row of Int8Rows from n activations. `order_bits`: the values stand as int8_dot wants them for
  /// weights of that width; 0: in their own order, as int8_tile wants them. A group with a NaN or an infinity
  /// gets a scale that is none either.
  void (*int8_round)(const float* x, std::size_t n, int group_size, int order_bits, std::int8_t* q,
                     float* scales, float* sums);
  /// y[r·y_stride + o] = x[r]·W[first + o] for o < count, r < rows ≤ kDotRows. Every weight row is read once.
  void (*int8_dot)(const QuantizedRows& w, std::size_t first, std::size_t count, const Int8Rows& x,
                   std::size_t rows, float* y, std::size_t y_stride);

  PanelsFrom panels_from;
  std::size_t panel_rows;  ///< weight rows of a panel, a multiple of 16
  std::size_t tile_rows;   ///< rows of activations of a tile
  /// Panel values of weight rows [first, first + count), count ≤ panel_rows, and columns [column, column +
  /// columns), whole groups.
  void (*int8_panel)(const QuantizedRows& w, std::size_t first, std::size_t count, std::size_t column,
                     std::size_t columns, std::uint8_t* values);
  /// y[r·panel_rows + o] += x[r]·panel[o] for o < panel_rows, r < rows ≤ tile_rows; x begins at the panel's
  /// first column, in its own order.
  void (*int8_tile)(const Int8Panel& panel, const Int8Rows& x, std::size_t rows, float* y);

  /// optiq/kernels/limits.h.
  unsigned long long (*read_all)(const void* p, std::size_t bytes, std::size_t prefetch_bytes);
  double (*spin_f32)(std::size_t rounds);
  double (*spin_int8)(std::size_t rounds);
};

/// The tables this machine can run, best first.
std::vector<const KernelTable*> available_kernels();

/// The available table of that name, the best one for nullptr; throws std::invalid_argument where there is
/// none.
const KernelTable& find_kernels(const char* name);

/// The table in use: find_kernels of the environment variable OPTIQ_CPU_ISA, chosen at first use.
const KernelTable& kernels();

extern const KernelTable generic_kernels;
#if defined(__x86_64__)
extern const KernelTable avx2_kernels;
extern const KernelTable avxvnni_kernels;
extern const KernelTable avx512_kernels;
extern const KernelTable avx512vnni256_kernels;
extern const KernelTable avx512vnni_kernels;
#elif defined(__aarch64__)
extern const KernelTable neon_dotprod_kernels;
extern const KernelTable neon_i8mm_kernels;
#endif

}  // namespace optiq::kernels::cpu
