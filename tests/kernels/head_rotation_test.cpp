#include "optiq/kernels/head_rotation.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "optiq/base/random.h"
#include "support/seed.h"

namespace optiq::kernels::cpu {
namespace {

/// Each element is a sum of n terms, added pairwise in log2(n) steps, then scaled.
double tolerance(std::size_t n, double sum_of_sizes) {
  return static_cast<double>(std::bit_width(n) + 1) * 0x1p-24 * sum_of_sizes /
         std::sqrt(static_cast<double>(n));
}

TEST(MixHeads, IsSylvestersMatrix) {
  Random random(test::seed());
  for (const std::size_t d : {1, 2, 4, 16, 64, 128, 256}) {
    const std::size_t rows = 1 + random.below(20), heads = 1 + random.below(4), stride = (heads + 1) * d + 3;
    std::vector<float> x(rows * stride);
    for (float& value : x) value = static_cast<float>(random.normal());
    std::vector<float> y = x;
    mix_heads({y.data(), stride, rows, stride}, heads, d);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const std::size_t h = i % stride / d, first = i - i % stride % d;
      if (h >= heads) {
        ASSERT_EQ(y[i], x[i]) << "not a head";
        continue;
      }
      double expected = 0, sizes = 0;
      for (std::size_t j = 0; j < d; ++j) {
        const double value = x[first + j];
        expected += std::popcount((i - first) & j) % 2 == 0 ? value : -value;
        sizes += std::abs(value);
      }
      ASSERT_NEAR(y[i], expected / std::sqrt(static_cast<double>(d)), tolerance(d, sizes)) << d;
    }
  }
}

TEST(MixHeads, LeavesProductsAsTheyAre) {
  Random random(test::seed());
  constexpr std::size_t kDim = 64;
  std::vector<float> x(2 * kDim);
  for (float& value : x) value = static_cast<float>(random.normal());
  x[5] = 100;  // a channel much larger than the others
  const auto product = [&] {
    double sum = 0;
    for (std::size_t i = 0; i < kDim; ++i)
      sum += static_cast<double>(x[i]) * static_cast<double>(x[kDim + i]);
    return sum;
  };
  const double before = product();
  mix_heads({x.data(), kDim, 2, kDim}, 1, kDim);
  double top = 0, squares = 0;
  for (std::size_t i = 0; i < kDim; ++i) {
    top = std::max(top, std::abs(static_cast<double>(x[i])));
    squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  EXPECT_NEAR(product(), before, 1e-5 * std::sqrt(squares) * 8);
  EXPECT_LT(top, 3 * std::sqrt(squares / kDim)) << "the large one is shared out";
}

TEST(MixHeads, NeedsAPowerOfTwo) {
  for (const std::size_t d : {1, 2, 64, 128}) EXPECT_TRUE(can_mix_heads(d));
  for (const std::size_t d : {0, 3, 80, 96}) EXPECT_FALSE(can_mix_heads(d));
}

}  // namespace
}  // namespace optiq::kernels::cpu
