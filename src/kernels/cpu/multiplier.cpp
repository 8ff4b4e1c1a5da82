#include <algorithm>

#include "buffer.h"
#include "int8_products.h"
#include "matrix.h"
#include "scratch.h"
#include "tasks.h"

namespace optiq::kernels::cpu {
namespace {

using Bf16 = std::uint16_t;

/// One weight row against at most kDotRows rows in f32.
void dot_row(const Matrix& w, std::size_t row, const float* x, std::size_t rows, Compute compute,
             float* sums) {
  const Range columns{0, w.in};
  if (w.is_quantized()) {
    float* values = scratch<float>(Slot::group_values, group_values(w, columns));
    return kernels().quantized_dot(quantized_row(w, row, columns, values), w.in, x, w.in, rows, sums);
  }
  if (compute != Compute::bf16)
    return kernels().dot(w.storage, element(w, row, 0), w.in, x, w.in, rows, sums);
  const void* rounded = bf16_blocks(w).block({row, row + 1}, columns).data;
  kernels().dot(Storage::bf16, rounded, w.in, x, w.in, rows, sums);
}

/// At most kDotRows rows: each weight row is read once.
void few_rows(const float* x, std::size_t rows, std::span<const Use> uses, Compute compute) {
  run_tasks(uses, rows_of_a_task, [&](std::size_t i, Range o) {
    const Use& use = uses[i];
    float sums[kDotRows];
    for (std::size_t row = o.begin; row < o.end; ++row) {
      dot_row(*use.matrix, row, x, rows, compute, sums);
      for (std::size_t r = 0; r < rows; ++r) {
        float& y = use.y[r * use.stride + row];
        y = (use.accumulate ? y : 0.0f) + sums[r] + (use.bias == nullptr ? 0.0f : use.bias[row]);
      }
    }
  });
}

/// x rounded to bf16 and back.
const float* bf16_values(const float* x, std::size_t count, GrowingBuffer<float>& memory) {
  const std::vector<Bf16> narrow = rounded_to_bf16(x, count);
  kernels().widen(Storage::bf16, narrow.data(), count, memory.reserve(count));
  return memory.data();
}

}  // namespace

struct Multiplier::Memory {
  RoundedRows rounded;
  GrowingBuffer<float> widened;

  void run_quantized(const float* x, std::size_t rows, std::size_t in, std::span<const Use> uses,
                     Compute compute);
  void run_dense(const float* x, std::size_t rows, std::size_t in, std::span<const Use> uses,
                 Compute compute);
};

void Multiplier::Memory::run_quantized(const float* x, std::size_t rows, std::size_t in,
                                       std::span<const Use> uses, Compute compute) {
  if (compute == Compute::int8) {
    rounded.begin(x, rows, in);
    return multiply_int8(rounded, rows, uses);
  }
  if (rows <= kDotRows) return few_rows(x, rows, uses, compute);
  for (const Use& use : uses) multiply_by_transpose(x, rows, f32_blocks(*use.matrix), use);
}

void Multiplier::Memory::run_dense(const float* x, std::size_t rows, std::size_t in,
                                   std::span<const Use> uses, Compute compute) {
  if (rows <= kDotRows) {
    return few_rows(compute == Compute::bf16 ? bf16_values(x, rows * in, widened) : x, rows, uses, compute);
  }
  if (compute == Compute::f32) {
    for (const Use& use : uses) multiply_by_transpose(x, rows, f32_blocks(*use.matrix), use);
    return;
  }
  const std::vector<Bf16> narrow = rounded_to_bf16(x, rows * in);
  for (const Use& use : uses) multiply_by_transpose(narrow.data(), rows, bf16_blocks(*use.matrix), use);
}

Multiplier::Multiplier(Compute compute) : compute_(compute), memory_(std::make_unique<Memory>()) {}
Multiplier::~Multiplier() = default;
Multiplier::Multiplier(Multiplier&&) noexcept = default;
Multiplier& Multiplier::operator=(Multiplier&&) noexcept = default;

void Multiplier::run(const float* x, std::size_t rows, std::size_t in, std::span<const Use> uses) {
  while (rows > 0 && !uses.empty()) {
    const bool quantized = uses.front().matrix->is_quantized();
    const auto end =
        std::ranges::find_if(uses, [&](const Use& use) { return use.matrix->is_quantized() != quantized; });
    const auto alike = uses.first(static_cast<std::size_t>(end - uses.begin()));
    if (quantized) {
      memory_->run_quantized(x, rows, in, alike, compute_);
    } else {
      memory_->run_dense(x, rows, in, alike, compute_);
    }
    uses = uses.subspan(alike.size());
  }
}

}  // namespace optiq::kernels::cpu
