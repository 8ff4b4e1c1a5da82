#include <algorithm>
#include <cmath>

#include "cpu_ops.h"
#include "optiq/base/threads.h"
#include "primitive.h"

namespace optiq::kernels::cpu {
namespace {

/// A token outside the table gives a row of NaN: an index is only known when the work is done.
void forward(const Arrays& in, Arrays& out) {
  const int* tokens = in[0].data<int>();
  const auto width = static_cast<std::size_t>(in[1].shape(1));
  const Storage storage = storage_of(in[1]);
  const char* table = in[1].data<char>();
  float* y = out[0].data<float>();
  parallel_for(in[0].size(), 16, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      if (tokens[i] < 0 || tokens[i] >= in[1].shape(0)) {
        std::fill_n(y + i * width, width, NAN);
        continue;
      }
      const std::size_t row = static_cast<std::size_t>(tokens[i]) * width;
      kernels().widen(storage, table + row * storage_bytes(storage), width, y + i * width);
    }
  });
}

/// Columns in parallel, each summed in the order of the tokens. in: tokens, dy.
void backward(const Arrays& in, Arrays& out) {
  const int* tokens = in[0].data<int>();
  const auto rows = static_cast<std::size_t>(out[0].shape(0)),
             width = static_cast<std::size_t>(out[0].shape(1));
  const float* dy = in[1].data<float>();
  float* table = out[0].data<float>();
  parallel_for(rows, 1 + 65536 / (width + 1), [&](std::size_t begin, std::size_t end) {
    std::fill(table + begin * width, table + end * width, 0.0f);
  });
  parallel_for(width, 128, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = 0; i < in[0].size(); ++i) {
      if (tokens[i] < 0 || tokens[i] >= out[0].shape(0)) continue;
      float* row = table + static_cast<std::size_t>(tokens[i]) * width;
      kernels().add_scaled(1.0f, dy + i * width + begin, end - begin, row + begin);
    }
  });
}

Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums, const Arrays&) {
  if (argnums != std::vector<int>{1}) throw std::invalid_argument("embedding: tokens: has no gradient");
  return {make_array({"embedding_gradient", backward}, primals[1].shape(), {primals[0], cotangents[0]})};
}

}  // namespace

mx::array embedding(const mx::array& tokens, const mx::array& table) {
  mx::Shape shape = tokens.shape();
  shape.push_back(table.shape(1));
  return make_array({"embedding", forward, vjp}, std::move(shape), {tokens, table});
}

}  // namespace optiq::kernels::cpu
