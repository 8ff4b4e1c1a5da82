#include "optiq/quant/encoder.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <vector>

#include "gptq.h"
#include "group.h"
#include "optiq/base/threads.h"
#include "store_row.h"

namespace optiq::quant {
namespace {

constexpr std::size_t kTaskWeights = 1u << 16;  ///< weights a thread takes at a time

bool is_finite(std::span<const float> values) {
  std::uint32_t largest = 0;  // of the magnitudes' bits: ordered as the magnitudes are
  for (const float value : values)
    largest = std::max(largest, std::bit_cast<std::uint32_t>(value) & 0x7fffffffu);
  return largest < 0x7f800000u;
}

Status check_matrix(const MatrixView& matrix, Format format, DType scales_dtype, std::string_view tensor) {
  OPTIQ_CHECK(check_format(format, matrix.in_features, std::string(tensor)));
  if (format.is_dense()) return fail(ErrorCode::bad_input, "{}: a dense format needs no encoder", tensor);
  if (!is_float_dtype(matrix.dtype) || !is_float_dtype(scales_dtype)) {
    return fail(ErrorCode::bad_input, "{}: expected weights and scales of F32, F16 or BF16, got {} and {}",
                tensor, dtype_name(matrix.dtype), dtype_name(scales_dtype));
  }
  const std::size_t elements = matrix.bytes.size() / dtype_bytes(matrix.dtype);
  const auto columns = static_cast<std::size_t>(matrix.in_features);
  if (matrix.out_features <= 0 || matrix.bytes.size() % dtype_bytes(matrix.dtype) != 0 ||
      elements % columns != 0 || elements / columns != static_cast<std::size_t>(matrix.out_features)) {
    return fail(ErrorCode::bad_input, "{}: expected [{}, {}] of {}, got {} bytes", tensor,
                matrix.out_features, matrix.in_features, dtype_name(matrix.dtype), matrix.bytes.size());
  }
  return {};
}

Status check_importance(std::span<const float> importance, std::int64_t in_features,
                        std::string_view tensor) {
  if (importance.empty()) return {};
  if (importance.size() != static_cast<std::size_t>(in_features)) {
    return fail(ErrorCode::bad_input, "{}: expected importance of {} channels, got {}", tensor, in_features,
                importance.size());
  }
  for (std::size_t i = 0; i < importance.size(); ++i) {
    if (std::isfinite(importance[i]) && importance[i] >= 0) continue;
    return fail(ErrorCode::bad_input, "{}: importance of channel {}: expected a finite number ≥ 0, got {}",
                tensor, i, importance[i]);
  }
  return {};
}

void lower_to(std::atomic<std::size_t>& smallest, std::size_t value) {
  std::size_t current = smallest.load();
  while (value < current && !smallest.compare_exchange_weak(current, value)) {
  }
}

/// Encodes rows one after another; one for each task of the pool.
class RowEncoder {
 public:
  RowEncoder(Encoder encoder, const MatrixView& matrix, std::span<const float> importance,
             QuantizedMatrix& result)
      : encoder_(encoder),
        matrix_(matrix),
        importance_(importance),
        result_(result),
        weights_(static_cast<std::size_t>(matrix.in_features)),
        q_(weights_.size()) {}

  /// False where a weight, or a group's scale or bias once stored, is not finite.
  bool encode(std::size_t row) {
    load_row(matrix_, static_cast<std::int64_t>(row), weights_);
    if (!is_finite(weights_)) return false;
    const auto group = static_cast<std::size_t>(result_.format.group_size);
    const std::size_t groups = weights_.size() / group;
    affine_.resize(groups);
    for (std::size_t g = 0; g < groups; ++g) affine_[g] = encode_group(g * group, group);
    return store_row(result_, row, q_, affine_);
  }

 private:
  Affine encode_group(std::size_t begin, std::size_t size) {
    const std::span<const float> weights = std::span(weights_).subspan(begin, size);
    const std::span<std::uint8_t> q = std::span(q_).subspan(begin, size);
    if (encoder_ == Encoder::rtn) return encode_group_rtn(weights, result_.format.bits, result_.dtype, q);
    return encode_group_range(weights, importance_.subspan(begin, size), result_.format.bits, result_.dtype,
                              q);
  }

  Encoder encoder_;
  const MatrixView& matrix_;
  std::span<const float> importance_;
  QuantizedMatrix& result_;
  std::vector<float> weights_;
  std::vector<std::uint8_t> q_;
  std::vector<Affine> affine_;
};

/// All rows one by one. Returns the first that could not be encoded, or their number.
std::size_t encode_rows(Encoder encoder, const MatrixView& matrix, std::span<const float> importance,
                        QuantizedMatrix& result) {
  const std::vector<float> ones(importance.empty() ? static_cast<std::size_t>(matrix.in_features) : 0, 1.0f);
  if (importance.empty()) importance = ones;
  const auto rows = static_cast<std::size_t>(matrix.out_features);
  const std::size_t grain =
      std::max<std::size_t>(1, kTaskWeights / static_cast<std::size_t>(matrix.in_features));
  std::atomic<std::size_t> first_bad_row{rows};
  parallel_for(rows, grain, [&](std::size_t begin, std::size_t end) {
    RowEncoder row_encoder(encoder, matrix, importance, result);
    for (std::size_t row = begin; row < end; ++row) {
      if (!row_encoder.encode(row)) lower_to(first_bad_row, row);
    }
  });
  return first_bad_row;
}

/// `count` rows from `first` on by `gptq`; false for a row that cannot be encoded, by lane.
void encode_slab(const MatrixView& matrix, std::size_t first, std::size_t count, GptqSlab& slab,
                 QuantizedMatrix& result, std::atomic<std::size_t>& first_bad_row) {
  std::vector<float> weights(static_cast<std::size_t>(matrix.in_features));
  for (std::size_t lane = 0; lane < kTileLanes; ++lane) {
    std::fill(weights.begin(), weights.end(), 0.0f);
    if (lane < count) load_row(matrix, static_cast<std::int64_t>(first + lane), weights);
    if (!is_finite(weights)) {
      lower_to(first_bad_row, first + lane);
      return;
    }
    slab.set_row(lane, weights);
  }
  slab.encode();
  std::vector<std::uint8_t> q(weights.size());
  std::vector<Affine> affine(weights.size() / static_cast<std::size_t>(result.format.group_size));
  for (std::size_t lane = 0; lane < count; ++lane) {
    slab.row(lane, q, affine);
    if (!store_row(result, first + lane, q, affine)) lower_to(first_bad_row, first + lane);
  }
}

/// As encode_rows, for `gptq`.
std::size_t encode_slabs(const MatrixView& matrix, const GramFactor& factor, QuantizedMatrix& result) {
  const auto rows = static_cast<std::size_t>(matrix.out_features);
  std::atomic<std::size_t> first_bad_row{rows};
  parallel_for((rows + kTileLanes - 1) / kTileLanes, 4, [&](std::size_t begin, std::size_t end) {
    GptqSlab slab(factor, result.format, result.dtype);
    for (std::size_t i = begin; i < end; ++i) {
      const std::size_t first = i * kTileLanes;
      encode_slab(matrix, first, std::min(kTileLanes, rows - first), slab, result, first_bad_row);
    }
  });
  return first_bad_row;
}

/// Why RowEncoder gave a row up.
tl::unexpected<Error> describe_bad_row(const MatrixView& matrix, std::size_t row, DType scales_dtype,
                                       std::string_view tensor) {
  std::vector<float> weights(static_cast<std::size_t>(matrix.in_features));
  load_row(matrix, static_cast<std::int64_t>(row), weights);
  const auto bad =
      std::find_if(weights.begin(), weights.end(), [](float value) { return !std::isfinite(value); });
  if (bad != weights.end()) {
    return fail(ErrorCode::bad_input, "{}: row {}, column {}: expected a finite weight, got {}", tensor, row,
                bad - weights.begin(), *bad);
  }
  return fail(ErrorCode::bad_input, "{}: row {}: its weights are too large for scales and biases of {}",
              tensor, row, dtype_name(scales_dtype));
}

}  // namespace

std::string_view encoder_name(Encoder encoder) {
  constexpr std::array<std::string_view, 3> names{"rtn", "range", "gptq"};
  return names[static_cast<std::size_t>(encoder)];
}

Result<Encoder> parse_encoder(std::string_view name) {
  for (const Encoder encoder : {Encoder::rtn, Encoder::range, Encoder::gptq}) {
    if (name == encoder_name(encoder)) return encoder;
  }
  return fail(ErrorCode::usage, "encoder '{}': expected rtn, range or gptq", name);
}

Result<QuantizedMatrix> encode(Encoder encoder, const MatrixView& matrix, Format format, DType scales_dtype,
                               const Inputs& inputs, std::string_view tensor) {
  OPTIQ_CHECK(check_matrix(matrix, format, scales_dtype, tensor));
  OPTIQ_CHECK(check_importance(inputs.importance, matrix.in_features, tensor));
  QuantizedMatrix result = empty_matrix(matrix.out_features, matrix.in_features, format, scales_dtype);
  const bool compensating = encoder == Encoder::gptq && inputs.gram != nullptr;
  if (compensating && inputs.gram->in_features() != matrix.in_features) {
    return fail(ErrorCode::bad_input, "{}: expected second moments of {} inputs, got {}", tensor,
                matrix.in_features, inputs.gram->in_features());
  }
  const std::size_t bad_row = compensating
                                  ? encode_slabs(matrix, inputs.gram->factor(format.group_size), result)
                                  : encode_rows(encoder, matrix, inputs.importance, result);
  if (bad_row < static_cast<std::size_t>(matrix.out_features))
    return describe_bad_row(matrix, bad_row, scales_dtype, tensor);
  return result;
}

}  // namespace optiq::quant
