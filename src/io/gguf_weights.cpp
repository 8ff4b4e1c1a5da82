#include "gguf_weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "optiq/base/half.h"
#include "optiq/base/threads.h"
#include "optiq/io/gguf_dequantize.h"

namespace optiq::io {
namespace {

constexpr std::size_t kElementsPerTask = 1 << 16;

/// A tensor as rows of equal length. An interleaved bias is a column, as its elements move like rows.
struct Rows {
  std::size_t count = 1;
  std::size_t elements = 1;
  std::size_t source_bytes = 0;
};

Rows rows_of(const GgufImportedTensor& tensor) {
  const std::vector<std::int64_t>& shape = tensor.target.shape;
  const bool column = shape.size() == 1 && tensor.interleaved_heads != 0;
  std::size_t total = 1;
  for (const std::int64_t extent : shape) total *= static_cast<std::size_t>(extent);
  Rows rows;
  rows.elements = column ? 1 : static_cast<std::size_t>(shape.back());
  rows.count = total / rows.elements;
  rows.source_bytes = tensor.source->bytes.size() / rows.count;
  return rows;
}

/// The row of the file that row `row` of the checkpoint comes from.
std::size_t source_row(std::size_t row, std::size_t rows, std::int64_t interleaved_heads) {
  if (interleaved_heads == 0) return row;
  const std::size_t head_rows = rows / static_cast<std::size_t>(interleaved_heads);
  const std::size_t half = head_rows / 2;
  const std::size_t within = row % head_rows;
  return row - within + 2 * (within % half) + within / half;
}

bool store(float value, DType dtype, std::byte* to) {
  if (dtype == DType::f32) {
    std::memcpy(to, &value, sizeof value);
    return std::isfinite(value);
  }
  const std::uint16_t bits = dtype == DType::f16 ? f32_to_f16(value) : f32_to_bf16(value);
  std::memcpy(to, &bits, sizeof bits);
  const unsigned exponent = dtype == DType::f16 ? 0x7c00u : 0x7f80u;
  return (bits & exponent) != exponent;
}

/// Stores a row; the column of its first value that cannot be stored, or its length.
std::size_t store_row(std::span<const float> row, DType dtype, std::byte* to) {
  const std::size_t bytes = dtype_bytes(dtype);
  std::size_t bad = row.size();
  for (std::size_t i = row.size(); i-- > 0;) {
    if (!store(row[i], dtype, to + i * bytes)) bad = i;
  }
  return bad;
}

void keep_smallest(std::atomic<std::size_t>& smallest, std::size_t value) {
  std::size_t current = smallest.load();
  while (value < current && !smallest.compare_exchange_weak(current, value)) {
  }
}

}  // namespace

Result<std::vector<std::byte>> convert_gguf_tensor(const GgufImportedTensor& tensor,
                                                   const std::string& where) {
  const Rows rows = rows_of(tensor);
  const DType dtype = tensor.target.dtype;
  const std::size_t row_bytes = rows.elements * dtype_bytes(dtype);
  std::vector<std::byte> out(rows.count * row_bytes);
  std::atomic<std::size_t> first_bad{rows.count * rows.elements};
  const auto convert_rows = [&](std::size_t begin, std::size_t end) {
    std::vector<float> values(rows.elements);
    for (std::size_t row = begin; row < end; ++row) {
      const std::size_t from = source_row(row, rows.count, tensor.interleaved_heads);
      // The plan refused every type and shape that this could fail for.
      const bool converted =
          dequantize(tensor.source->type,
                     tensor.source->bytes.subspan(from * rows.source_bytes, rows.source_bytes), values)
              .has_value();
      const std::size_t bad = converted ? store_row(values, dtype, out.data() + row * row_bytes) : 0;
      if (bad < rows.elements) keep_smallest(first_bad, row * rows.elements + bad);
    }
  };
  parallel_for(rows.count, std::max<std::size_t>(1, kElementsPerTask / rows.elements), convert_rows);
  const std::size_t bad = first_bad.load();
  if (bad == rows.count * rows.elements) return out;
  return fail(ErrorCode::bad_input,
              "{}: tensor {}: the weight at row {}, column {} of {} is NaN, infinite or too large for {}",
              where, tensor.source->name, bad / rows.elements, bad % rows.elements, tensor.target.name,
              dtype_name(dtype));
}

}  // namespace optiq::io
