// Encoders: a full-precision matrix in, a QuantizedMatrix out. All produce the same format; they differ in
// the scale and bias they choose for each group, and in what they know of the layer's inputs.
#pragma once

#include <span>
#include <string_view>

#include "optiq/quant/format.h"
#include "optiq/quant/gram.h"

namespace optiq::quant {

enum class Encoder {
  rtn,    ///< round to nearest, bit-exact with mlx::core::quantize (docs/formats.md, "Scales and biases")
  range,  ///< searches each group's range for the least activation-weighted squared error; never worse than
          ///< rtn there
  gptq,   ///< compensates each rounding error by the weights that come after it, given the second moments of
         ///< the inputs; ranges searched; then coordinate descent on levels and pairs
};
std::string_view encoder_name(Encoder encoder);
Result<Encoder> parse_encoder(std::string_view name);

/// A matrix in memory: row-major [out, in], stored as f32, f16 or bf16.
struct MatrixView {
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  DType dtype = DType::f32;
  std::span<const std::byte> bytes;  ///< may be unaligned
};

/// Row `row` of the matrix as f32; `values.size()` = in_features.
void load_row(const MatrixView& matrix, std::int64_t row, std::span<float> values);

/// What an encoder may know of a layer's inputs; borrowed.
struct Inputs {
  /// Mean squared activation of each input channel ([in], f32, ≥ 0), used by `range`; empty means all ones.
  std::span<const float> importance = {};
  /// Used by `gptq`; where there is none it encodes as `range` does.
  const Gram* gram = nullptr;
};

/// Encodes `matrix`. scales_dtype is the dtype of scales and biases; MLX's own quantizer uses
/// the weight's. Threads: base's pool, rows in parallel; the result does not depend on their number.
/// bad_input (naming `tensor`, and row and column) for a NaN or infinite weight, or one that scales_dtype
/// cannot hold; for a bad or dense format, negative or non-finite importance, or sizes that do not match.
/// Cost on one core: rtn some 300 million weights a second, range some 30; gptq besides 2.5·in
/// multiplications and additions a weight, and the factor of each group size once a Gram.
Result<QuantizedMatrix> encode(Encoder encoder, const MatrixView& matrix, Format format, DType scales_dtype,
                               const Inputs& inputs, std::string_view tensor);

/// Row `row` of the dequantized matrix, q·s + b computed in f32 from the stored s and b. values.size() =
/// in_features.
void dequantize_row(const QuantizedMatrix& matrix, std::int64_t row, std::span<float> values);

}  // namespace optiq::quant
