// MLX arrays in tests: random ones, their values in double, and comparisons with stated tolerances.
#pragma once

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "optiq/base/random.h"

namespace optiq::test {

namespace mx = mlx::core;

using Doubles = std::vector<double>;

inline constexpr double kF32Epsilon = 0x1p-24;  ///< relative error of one rounding to f32
inline constexpr double kBf16Epsilon = 0x1p-9;  ///< and to bf16

/// Normal values times `scale`, rounded to `dtype`.
inline mx::array random_array(Random& random, mx::Shape shape, mx::Dtype dtype = mx::float32,
                              double scale = 1) {
  std::size_t count = 1;
  for (const int size : shape) count *= static_cast<std::size_t>(size);
  std::vector<float> data(count);
  for (float& value : data) value = static_cast<float>(scale * random.normal());
  mx::array array = mx::astype(mx::array(data.begin(), std::move(shape)), dtype);
  array.eval();
  return array;
}

/// Uniform integers in [0, n).
inline mx::array random_indices(Random& random, mx::Shape shape, int n) {
  std::size_t count = 1;
  for (const int size : shape) count *= static_cast<std::size_t>(size);
  std::vector<int> data(count);
  for (int& value : data) value = static_cast<int>(random.below(static_cast<std::uint64_t>(n)));
  return mx::array(data.begin(), std::move(shape));
}

/// A non-contiguous view with the values of `array`: the last two axes are stored the other way round.
inline mx::array strided(const mx::array& array) {
  return mx::swapaxes(mx::contiguous(mx::swapaxes(array, -1, -2)), -1, -2);
}

/// The evaluated values, row-major.
inline Doubles values(const mx::array& array) {
  mx::array f32 = mx::contiguous(mx::astype(array, mx::float32));
  f32.eval();
  return Doubles(f32.data<float>(), f32.data<float>() + f32.size());
}

inline double norm(const Doubles& x) {
  double sum = 0;
  for (const double value : x) sum += value * value;
  return std::sqrt(sum);
}

inline double largest(const Doubles& x) {
  double result = 0;
  for (const double value : x) result = std::max(result, std::abs(value));
  return result;
}

/// The largest Euclidean norm of a row of `width` values.
inline double largest_row_norm(const Doubles& x, std::size_t width) {
  double result = 0;
  for (std::size_t i = 0; i + width <= x.size(); i += width) {
    result = std::max(result, norm(Doubles(x.begin() + i, x.begin() + i + width)));
  }
  return result;
}

/// Every |actual − expected| ≤ tolerance; says where it is worst. A NaN fails.
inline ::testing::AssertionResult close(const Doubles& actual, const Doubles& expected, double tolerance) {
  if (actual.size() != expected.size()) {
    return ::testing::AssertionFailure() << actual.size() << " values, expected " << expected.size();
  }
  double worst = 0;
  std::size_t where = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double error = std::abs(actual[i] - expected[i]);
    if (error <= worst) continue;
    worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
    where = i;
    if (std::isinf(worst)) break;
  }
  if (worst <= tolerance) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "value " << where << " is " << actual[where] << ", expected "
                                       << expected[where] << ": error " << worst << " > " << tolerance;
}

inline ::testing::AssertionResult close(const mx::array& actual, const Doubles& expected, double tolerance) {
  return close(values(actual), expected, tolerance);
}

/// A function of several vectors, in double.
using DoubleFunction = std::function<Doubles(const std::vector<Doubles>&)>;

/// ⟨cotangent, ∂f/∂inputs[argument]⟩ by central differences. Error about 1e-9 for smooth f of order 1.
inline Doubles numeric_vjp(const DoubleFunction& f, std::vector<Doubles> inputs, std::size_t argument,
                           const Doubles& cotangent) {
  constexpr double kStep = 0x1p-17;
  const auto projected = [&](double x, std::size_t i) {
    inputs[argument][i] = x;
    const Doubles y = f(inputs);
    double sum = 0;
    for (std::size_t j = 0; j < y.size(); ++j) sum += cotangent[j] * y[j];
    return sum;
  };
  Doubles gradient(inputs[argument].size());
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    const double x = inputs[argument][i];
    const double above = projected(x + kStep, i), below = projected(x - kStep, i);
    inputs[argument][i] = x;
    gradient[i] = (above - below) / (2 * kStep);
  }
  return gradient;
}

using ArrayFunction = std::function<mx::array(const std::vector<mx::array>&)>;

/// MLX's vjp of a one-output function with respect to all inputs.
inline std::vector<mx::array> array_vjp(const ArrayFunction& f, const std::vector<mx::array>& inputs,
                                        const mx::array& cotangent) {
  const auto wrapped = [&](const std::vector<mx::array>& in) { return std::vector<mx::array>{f(in)}; };
  return mx::vjp(wrapped, inputs, {cotangent}).second;
}

/// Checks every gradient of `f` against central differences of `reference`, relative to the gradient's
/// largest value.
inline void expect_vjp(const ArrayFunction& f, const DoubleFunction& reference,
                       const std::vector<mx::array>& inputs, const mx::array& cotangent, double tolerance) {
  std::vector<Doubles> points;
  for (const mx::array& input : inputs) points.push_back(values(input));
  const std::vector<mx::array> gradients = array_vjp(f, inputs, cotangent);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Doubles expected = numeric_vjp(reference, points, i, values(cotangent));
    ASSERT_EQ(gradients[i].shape(), inputs[i].shape());
    EXPECT_TRUE(close(gradients[i], expected, tolerance * std::max(1e-3, largest(expected))))
        << "input " << i;
  }
}

}  // namespace optiq::test
