// Results must not depend on the number of threads: inside parallel_for a nested call runs on one thread, so
// the same function runs both ways here, into poisoned outputs.
#include "optiq/base/threads.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "optiq/base/random.h"
#include "src/kernels/cpu/attention.h"
#include "src/kernels/cpu/products.h"

namespace optiq::kernels::cpu {
namespace {

using Floats = std::vector<float>;

Floats random_floats(Random& random, std::size_t count) {
  Floats values(count);
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

/// Runs `work` on the pool, then on one thread; both must write all of `count` floats, bit for bit the same.
void expect_same_bits(std::size_t count, const std::function<void(float*)>& work) {
  Floats threaded(count, NAN), alone(count, NAN);
  work(threaded.data());
  parallel_for(2, 1, [&](std::size_t begin, std::size_t) {
    if (begin == 0) work(alone.data());
  });
  EXPECT_EQ(std::memcmp(threaded.data(), alone.data(), count * sizeof(float)), 0);
  for (std::size_t i = 0; i < count; ++i)
    ASSERT_FALSE(std::isnan(threaded[i])) << "value " << i << " not written";
}

TEST(Threads, ProductsDoNotDependOnTheirNumber) {
  Random random(81);
  constexpr std::size_t rows = 150, in = 210, out = 300;
  const Floats x = random_floats(random, rows * in), w = random_floats(random, out * in),
               dy = random_floats(random, rows * out);
  const auto block = [&](Range o, Range i) { return Operand<float>{&w[o.begin * in + i.begin], in}; };
  const BlockedWeight<float> weight{out, in, block, true};
  expect_same_bits(rows * out, [&](float* y) {
    multiply_by_transpose(x.data(), rows, weight, Use{.y = y, .stride = weight.out});
  });
  expect_same_bits(rows * in, [&](float* dx) { multiply_by(dy.data(), rows, weight, dx); });
  expect_same_bits(out * in, [&](float* dw) { multiply_transposed(dy.data(), out, x.data(), in, rows, dw); });
  expect_same_bits(in * in, [&](float* gram) { multiply_by_own_transpose(x.data(), in, rows, gram); });
  const auto rounded = rounded_to_bf16(x.data(), x.size());
  expect_same_bits(in * in, [&](float* gram) { multiply_by_own_transpose(rounded.data(), in, rows, gram); });
}

TEST(Threads, AttentionDoesNotDependOnTheirNumber) {
  Random random(82);
  for (const std::size_t queries : {std::size_t{1}, std::size_t{140}}) {
    const AttentionShape s{2, 6, 2, queries, 200, 16, 8, 0.25f, 0};
    const std::size_t q_size = 12 * queries * 16, y_size = 12 * queries * 8, k_size = 4 * 200 * 16,
                      v_size = 4 * 200 * 8;
    const Floats q = random_floats(random, q_size), k = random_floats(random, k_size),
                 v = random_floats(random, v_size);
    const Floats dy = random_floats(random, y_size);
    expect_same_bits(y_size, [&](float* y) { attention_forward(s, q.data(), k.data(), v.data(), y); });
    expect_same_bits(q_size + k_size + v_size, [&](float* d) {
      attention_backward(s, q.data(), k.data(), v.data(), dy.data(), d, d + q_size, d + q_size + k_size);
    });
  }
}

}  // namespace
}  // namespace optiq::kernels::cpu
