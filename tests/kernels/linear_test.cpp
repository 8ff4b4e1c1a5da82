#include <mlx/primitives.h>

#include "kernels/reference.h"
#include "optiq/kernels/ops.h"

namespace optiq::kernels {
namespace {

using namespace optiq::test;

struct Case {
  int rows, in, out;
  mx::Dtype dtype;
};

/// Rows around the limit of the few-rows path, inner sizes across the inner block of converted weights.
std::vector<Case> ragged_cases() {
  Random random(91);
  std::vector<Case> cases;
  for (const mx::Dtype dtype : {mx::float32, mx::float16, mx::bfloat16}) {
    for (const int rows : {1, 2, 3, 4, 5, 17, 130}) {
      cases.push_back(
          {rows, 1 + static_cast<int>(random.below(300)), 1 + static_cast<int>(random.below(400)), dtype});
    }
    cases.push_back({9, 2500, 33, dtype});
    cases.push_back({600, 40, 1100, dtype});
  }
  return cases;
}

std::string describe(const Case& c) {
  return std::to_string(c.rows) + " x " + std::to_string(c.in) + " x " + std::to_string(c.out);
}

/// Error bound of f32 sums of `terms` products: rounding errors add up like a random walk.
double bound(const Doubles& x, const Doubles& w, std::size_t terms) {
  const double norms = largest_row_norm(x, terms) * largest_row_norm(w, terms);
  return norms * kF32Epsilon * (2 + std::sqrt(terms));
}

Doubles rounded_to_bf16(const mx::array& x) {
  return values(mx::astype(x, mx::bfloat16));
}

Doubles transposed(const Doubles& x, std::size_t columns) {
  Doubles y(x.size());
  const std::size_t rows = x.size() / columns;
  for (std::size_t i = 0; i < x.size(); ++i) y[i % columns * rows + i / columns] = x[i];
  return y;
}

struct Gradients {
  Doubles dx, dw;
  double dx_bound, dw_bound;
};

/// dx = dy·W and dW = dyᵀ·x, in double.
Gradients reference_gradients(const Doubles& x, const Doubles& w, const Doubles& dy, const Case& c) {
  const Doubles wt = transposed(w, c.in), xt = transposed(x, c.in), dyt = transposed(dy, c.out);
  return {reference::matmul_transposed(dy, wt, c.out), reference::matmul_transposed(dyt, xt, c.rows),
          bound(dy, wt, c.out), bound(dyt, xt, c.rows)};
}

TEST(Linear, MatchesTheDoubleReference) {
  Random random(1);
  for (const Case& c : ragged_cases()) {
    const mx::array x = random_array(random, {c.rows, c.in}),
                    w = random_array(random, {c.out, c.in}, c.dtype);
    const mx::array bias = random_array(random, {c.out}, c.dtype);
    const Doubles product = reference::matmul_transposed(values(x), values(w), c.in);
    const double tolerance = bound(values(x), values(w), c.in);
    EXPECT_TRUE(close(linear(x, w), product, tolerance)) << describe(c);
    EXPECT_TRUE(close(linear(x, w, bias), reference::add_bias(product, values(bias)), tolerance * 2 + 1e-6))
        << describe(c);
  }
}

TEST(Linear, Bf16RoundsBothOperandsOnceAndAccumulatesInF32) {
  Random random(2);
  for (const Case& c : ragged_cases()) {
    const mx::array x = random_array(random, {c.rows, c.in}),
                    w = random_array(random, {c.out, c.in}, c.dtype);
    const Doubles xr = rounded_to_bf16(x), wr = rounded_to_bf16(w);
    const Doubles product = reference::matmul_transposed(xr, wr, c.in);
    EXPECT_TRUE(close(linear(x, w, std::nullopt, Compute::bf16), product, bound(xr, wr, c.in)))
        << describe(c);
  }
}

TEST(Linear, GradientsMatchTheDoubleReference) {
  Random random(3);
  for (const Case& c : ragged_cases()) {
    const mx::array x = random_array(random, {c.rows, c.in}),
                    w = random_array(random, {c.out, c.in}, c.dtype);
    const mx::array dy = random_array(random, {c.rows, c.out});
    const Gradients expected = reference_gradients(values(x), values(w), values(dy), c);
    const auto got = array_vjp([](const auto& in) { return linear(in[0], in[1]); }, {x, w}, dy);
    EXPECT_TRUE(close(got[0], expected.dx, expected.dx_bound)) << describe(c);
    EXPECT_TRUE(close(got[1], expected.dw, expected.dw_bound)) << describe(c);
    EXPECT_EQ(got[1].dtype(), mx::float32);
  }
}

TEST(Linear, Bf16GradientsRoundTheirOperandsOnce) {
  Random random(4);
  for (const Case& c : ragged_cases()) {
    const mx::array x = random_array(random, {c.rows, c.in}),
                    w = random_array(random, {c.out, c.in}, c.dtype);
    const mx::array dy = random_array(random, {c.rows, c.out});
    const Gradients expected =
        reference_gradients(rounded_to_bf16(x), rounded_to_bf16(w), rounded_to_bf16(dy), c);
    const auto product = [](const auto& in) { return linear(in[0], in[1], std::nullopt, Compute::bf16); };
    const auto got = array_vjp(product, {x, w}, dy);
    EXPECT_TRUE(close(got[0], expected.dx, expected.dx_bound)) << describe(c);
    EXPECT_TRUE(close(got[1], expected.dw, expected.dw_bound)) << describe(c);
  }
}

TEST(Linear, BiasGradientSumsTheRows) {
  Random random(5);
  const mx::array x = random_array(random, {2, 9, 5}), w = random_array(random, {70, 5});
  const mx::array bias = random_array(random, {70}, mx::bfloat16), dy = random_array(random, {2, 9, 70});
  const auto got = array_vjp([](const auto& in) { return linear(in[0], in[1], in[2]); }, {x, w, bias}, dy);
  const Doubles d = values(dy);
  Doubles expected(70, 0.0);
  for (std::size_t i = 0; i < d.size(); ++i) expected[i % 70] += d[i];
  EXPECT_TRUE(close(got[2], expected, largest(expected) * 2 * kF32Epsilon));
}

/// The gradient's graph holds the product for dx only: a dW nobody asked for costs as much as the forward
/// pass.
TEST(Linear, OnlyTheGradientAskedForIsInTheGraph) {
  Random random(6);
  const mx::array x = random_array(random, {8, 16}), w = random_array(random, {4, 16}),
                  dy = random_array(random, {8, 4});
  const auto of_x = array_vjp([&](const auto& in) { return linear(in[0], w); }, {x}, dy);
  EXPECT_STREQ(of_x[0].primitive().name(), "linear_input_gradient");
  const auto of_w = array_vjp([&](const auto& in) { return linear(x, in[0]); }, {w}, dy);
  EXPECT_STREQ(of_w[0].primitive().name(), "linear_weight_gradient");
  EXPECT_EQ(of_w[0].inputs().size(), 2u);
}

TEST(Linear, TakesStridedAndBroadcastViews) {
  Random random(7);
  const mx::array x = strided(random_array(random, {3, 20, 31})),
                  w = strided(random_array(random, {9, 31}, mx::bfloat16));
  const Doubles product = reference::matmul_transposed(values(x), values(w), 31);
  EXPECT_TRUE(close(linear(x, w), product, bound(values(x), values(w), 31)));
  const mx::array row = random_array(random, {1, 31}), repeated = mx::broadcast_to(row, {7, 31});
  EXPECT_TRUE(close(linear(repeated, w), reference::matmul_transposed(values(repeated), values(w), 31),
                    bound(values(row), values(w), 31)));
}

TEST(Linear, InfinitiesAndNaNsReachTheirOutputsOnly) {
  for (const int rows : {2, 20}) {
    std::vector<float> data(static_cast<std::size_t>(rows) * 40, 0.5f);
    data[3] = INFINITY;
    data[40 + 7] = NAN;
    const mx::array x(data.begin(), {rows, 40});
    Random random(8);
    const mx::array w = mx::abs(random_array(random, {10, 40}, mx::bfloat16));
    const Doubles y = values(linear(x, w));
    for (int o = 0; o < 10; ++o) {
      EXPECT_EQ(y[o], INFINITY);
      EXPECT_TRUE(std::isnan(y[10 + o]));
      EXPECT_TRUE(rows == 2 || std::isfinite(y[20 + o]));
    }
  }
}

TEST(Gram, MatchesTheDoubleReferenceAndIsSymmetric) {
  Random random(9);
  for (const auto& [rows, n] : {std::pair{1, 5}, std::pair{70, 3}, std::pair{333, 530}}) {
    const mx::array x = random_array(random, {rows, n});
    const Doubles xt = transposed(values(x), n), g = values(gram(x));
    EXPECT_TRUE(close(g, reference::matmul_transposed(xt, xt, rows), bound(xt, xt, rows)));
    EXPECT_EQ(g, transposed(g, n));
  }
}

TEST(Gram, InBf16IsThatOfTheRoundedRows) {
  Random random(10);
  for (const auto& [rows, n] : {std::pair{1, 5}, std::pair{333, 530}}) {
    const mx::array x = random_array(random, {rows, n});
    const Doubles rounded = values(mx::astype(mx::astype(x, mx::bfloat16), mx::float32));
    const Doubles xt = transposed(rounded, n), g = values(gram(x, Compute::bf16));
    EXPECT_TRUE(close(g, reference::matmul_transposed(xt, xt, rows), bound(xt, xt, rows)));
    EXPECT_EQ(g, transposed(g, n));
  }
}

}  // namespace
}  // namespace optiq::kernels
