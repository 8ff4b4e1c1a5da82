// What one of several workers measures, and sums that do not depend on how it is shared. Whole profiles:
// tests/apps/workers_test.py.
#include "src/profile/share.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "optiq/base/memory.h"
#include "optiq/base/random.h"
#include "src/profile/gram_sums.h"
#include "support/seed.h"

namespace optiq::profile {
namespace {

namespace mx = model::mx;

mx::array random_inputs(Random& random, int tokens, int width) {
  std::vector<float> values(static_cast<std::size_t>(tokens * width));
  for (float& value : values) value = static_cast<float>(random.normal() * std::exp(2 * random.normal()));
  return mx::array(values.data(), {1, tokens, width});
}

TEST(ShareOf, OneWorkerHasAllSequences) {
  const calibrate::TokenBatch batch{5, 2, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}};
  const Share share = share_of(batch, 2, {}).value();
  EXPECT_EQ(share.batch.ids, batch.ids);
  EXPECT_EQ(share.batch.sequences, 5);
  EXPECT_EQ(share.first_token(), 0);
  EXPECT_EQ(share.all_tokens(), 10);
}

/// Sums of f32 in double, rounded once: those of long double, and the same from the last sequence to the
/// first.
TEST(GramSums, AreRoundedOnceWhateverTheirOrder) {
  Random random(test::seed());
  const int tokens = 24, width = 64;
  std::vector<mx::array> inputs;
  for (int i = 0; i < 50; ++i) inputs.push_back(random_inputs(random, tokens, width));
  const auto means = [&](const std::vector<mx::array>& order) {
    GramSums sums(kernels::Compute::f32);
    for (const mx::array& input : order) {
      sums.add("module", input);
      EXPECT_TRUE(sums.evaluate());
    }
    return std::move(sums)
        .means(tokens * static_cast<std::int64_t>(order.size()))
        .value()
        .at("module")
        ->moments();
  };
  const std::vector<float> found = means(inputs);
  std::vector<long double> expected(found.size(), 0);
  for (const mx::array& input : inputs) {
    mx::array gram = kernels::gram(input, kernels::Compute::f32);
    gram.eval();
    for (std::size_t i = 0; i < expected.size(); ++i)
      expected[i] += static_cast<long double>(gram.data<float>()[i]);
  }
  for (std::size_t row = 0; row < width; ++row) {
    for (std::size_t column = 0; column < width; ++column) {
      const std::size_t lower = std::max(row, column) * width + std::min(row, column);
      const auto mean =
          static_cast<double>(expected[lower] / (tokens * static_cast<long double>(inputs.size())));
      EXPECT_NEAR(static_cast<double>(found[row * width + column]), mean, std::ldexp(std::abs(mean), -24));
    }
  }
  std::ranges::reverse(inputs);
  EXPECT_EQ(means(inputs), found);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they hold what is freed
/// One Gram of a block can take a gigabyte: means take the place of sums.
TEST(GramSums, MeansTakeThePlaceOfSums) {
  Random random(test::seed());
  const int width = 3008;
  GramSums sums(kernels::Compute::f32);
  const mx::array a = random_inputs(random, 2, width), b = random_inputs(random, 2, width);
  sums.add("a", a);
  sums.add("b", b);
  ASSERT_TRUE(sums.evaluate());
  mx::clear_cache();
  return_freed_memory();
  const std::uint64_t before = resident_memory().now_bytes;
  const auto grams = std::move(sums).means(2);
  ASSERT_TRUE(grams) << grams.error().message;
  return_freed_memory();
  const std::uint64_t gram_bytes = std::uint64_t{width} * width * sizeof(float);
  EXPECT_LT(resident_memory().now_bytes, before + gram_bytes);
}
#endif

/// A worker whose sequences begin in the middle weighs them by their own weights.
TEST(GramSums, WeightsBeginAtTheFirstToken) {
  Random random(test::seed());
  const int tokens = 16, width = 32;
  TokenWeights all{{"module", {}}}, own{{"module", {}}};
  for (int i = 0; i < 3 * tokens; ++i) all["module"].push_back(static_cast<float>(1 + random.below(1000)));
  own["module"].assign(all["module"].begin() + tokens, all["module"].end());
  const std::vector<mx::array> inputs{random_inputs(random, tokens, width),
                                      random_inputs(random, tokens, width)};
  const auto means = [&](GramSums sums) {
    for (const mx::array& input : inputs) {
      sums.add("module", input);
      EXPECT_TRUE(sums.evaluate());
    }
    return std::move(sums).means(2 * tokens).value().at("module")->moments();
  };
  EXPECT_EQ(means(GramSums(kernels::Compute::f32, &all, tokens)),
            means(GramSums(kernels::Compute::f32, &own)));
}

}  // namespace
}  // namespace optiq::profile
