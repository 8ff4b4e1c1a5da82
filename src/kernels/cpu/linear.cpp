#include <algorithm>

#include "bias.h"
#include "cpu_ops.h"
#include "optiq/base/threads.h"
#include "primitive.h"
#include "products.h"
#include "scratch.h"

namespace optiq::kernels::cpu {
namespace {

using Bf16 = std::uint16_t;

struct StoredMatrix {
  const char* data;
  Storage storage;
  std::size_t out, in;

  explicit StoredMatrix(const mx::array& a)
      : data(a.data<char>()),
        storage(storage_of(a)),
        out(static_cast<std::size_t>(a.shape(0))),
        in(static_cast<std::size_t>(a.shape(1))) {}

  [[nodiscard]] const char* at(std::size_t row, std::size_t column) const {
    return data + (row * in + column) * storage_bytes(storage);
  }
};

BlockedWeight<float> f32_blocks(const StoredMatrix& matrix) {
  const auto block = [matrix](Range out, Range in) -> Operand<float> {
    if (matrix.storage == Storage::f32) {
      return {reinterpret_cast<const float*>(matrix.at(out.begin, in.begin)), matrix.in};
    }
    float* wide = scratch<float>(Slot::weights, out.size() * in.size());
    for (std::size_t row = out.begin; row < out.end; ++row) {
      kernels().widen(matrix.storage, matrix.at(row, in.begin), in.size(),
                      wide + (row - out.begin) * in.size());
    }
    return {wide, in.size()};
  };
  return {matrix.out, matrix.in, block, matrix.storage == Storage::f32};
}

BlockedWeight<Bf16> bf16_blocks(const StoredMatrix& matrix) {
  const auto block = [matrix](Range out, Range in) -> Operand<Bf16> {
    if (matrix.storage == Storage::bf16) {
      return {reinterpret_cast<const Bf16*>(matrix.at(out.begin, in.begin)), matrix.in};
    }
    Bf16* narrow = scratch<Bf16>(Slot::weights, out.size() * in.size());
    float* wide = scratch<float>(Slot::group_values, in.size());
    for (std::size_t row = out.begin; row < out.end; ++row) {
      kernels().widen(matrix.storage, matrix.at(row, in.begin), in.size(), wide);
      kernels().narrow_bf16(wide, in.size(), narrow + (row - out.begin) * in.size());
    }
    return {narrow, in.size()};
  };
  return {matrix.out, matrix.in, block, matrix.storage == Storage::bf16};
}

/// At most kDotRows rows: each weight row is read once. `weight_row` gives a row and how it is stored.
template <class WeightRow>
void few_rows(const float* x, std::size_t rows, std::size_t out, std::size_t in, std::span<const float> bias,
              float* y, WeightRow weight_row) {
  const Storage storage = weight_row.storage;
  parallel_for(out, 1 + 65536 / in, [&](std::size_t begin, std::size_t end) {
    float sums[kDotRows];
    for (std::size_t o = begin; o < end; ++o) {
      kernels().dot(storage, weight_row(o), in, x, in, rows, sums);
      for (std::size_t r = 0; r < rows; ++r) y[r * out + o] = sums[r] + (bias.empty() ? 0.0f : bias[o]);
    }
  });
}

struct StoredRow {
  StoredMatrix matrix;
  Storage storage = matrix.storage;
  const void* operator()(std::size_t o) const { return matrix.at(o, 0); }
};

struct RoundedRow {
  BlockedWeight<Bf16> blocks;
  Storage storage = Storage::bf16;
  const void* operator()(std::size_t o) const { return blocks.block({o, o + 1}, {0, blocks.in}).data; }
};

void forward_f32(const float* x, std::size_t rows, const StoredMatrix& w, std::span<const float> bias,
                 float* y) {
  if (rows <= kDotRows) return few_rows(x, rows, w.out, w.in, bias, y, StoredRow{w});
  multiply_by_transpose(x, rows, f32_blocks(w), bias, y);
}

void forward_bf16(const float* x, std::size_t rows, const StoredMatrix& w, std::span<const float> bias,
                  float* y) {
  const std::vector<Bf16> narrow = rounded(x, rows * w.in);
  if (rows > kDotRows) return multiply_by_transpose(narrow.data(), rows, bf16_blocks(w), bias, y);
  std::vector<float> wide(narrow.size());
  kernels().widen(Storage::bf16, narrow.data(), narrow.size(), wide.data());
  few_rows(wide.data(), rows, w.out, w.in, bias, y, RoundedRow{bf16_blocks(w)});
}

void forward(const Arrays& in, Arrays& out, Compute compute) {
  const StoredMatrix weight(in[1]);
  const std::vector<float> bias = bias_values(in, 2);
  const auto run = compute == Compute::f32 ? forward_f32 : forward_bf16;
  run(in[0].data<float>(), row_count(in[0]), weight, bias, out[0].data<float>());
}

/// in: dy, weight.
void input_gradient(const Arrays& in, Arrays& out, Compute compute) {
  const float* dy = in[0].data<float>();
  const std::size_t rows = row_count(in[0]);
  const StoredMatrix weight(in[1]);
  if (compute == Compute::f32) return multiply_by(dy, rows, f32_blocks(weight), out[0].data<float>());
  multiply_by(rounded(dy, in[0].size()).data(), rows, bf16_blocks(weight), out[0].data<float>());
}

/// in: dy, x.
void weight_gradient(const Arrays& in, Arrays& out, Compute compute) {
  const float *dy = in[0].data<float>(), *x = in[1].data<float>();
  const std::size_t rows = row_count(in[0]);
  const auto m = static_cast<std::size_t>(in[0].shape(-1)), n = static_cast<std::size_t>(in[1].shape(-1));
  if (compute == Compute::f32) return multiply_transposed(dy, m, x, n, rows, out[0].data<float>());
  multiply_transposed(rounded(dy, in[0].size()).data(), m, rounded(x, in[1].size()).data(), n, rows,
                      out[0].data<float>());
}

mx::array gradient(const Arrays& primals, const mx::array& dy, int argument, Compute compute) {
  if (argument == 0) {
    return make_array(
        {"linear_input_gradient", [=](const Arrays& in, Arrays& out) { input_gradient(in, out, compute); }},
        primals[0].shape(), {dy, primals[1]});
  }
  if (argument == 1) {
    return make_array(
        {"linear_weight_gradient", [=](const Arrays& in, Arrays& out) { weight_gradient(in, out, compute); }},
        primals[1].shape(), {dy, primals[0]});
  }
  return bias_gradient(dy);
}

}  // namespace

mx::array linear(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias,
                 Compute compute) {
  const auto vjp = [compute](const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                             const Arrays&) {
    Arrays gradients;
    for (const int argument : argnums)
      gradients.push_back(gradient(primals, cotangents[0], argument, compute));
    return gradients;
  };
  mx::Shape shape = x.shape();
  shape.back() = weight.shape(0);
  Arrays inputs{x, weight};
  if (bias) inputs.push_back(*bias);
  return make_array({"linear", [=](const Arrays& in, Arrays& out) { forward(in, out, compute); }, vjp},
                    std::move(shape), std::move(inputs));
}

}  // namespace optiq::kernels::cpu
