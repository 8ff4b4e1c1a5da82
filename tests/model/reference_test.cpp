// The reference model (tools/reference_model.h) computes what the model that it was made from computes.
#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "optiq/model/model.h"
#include "support/arrays.h"
#include "support/reference_model.h"

namespace optiq::model {
namespace {

using test::Doubles;
using test::values;

// Both passes round to f32: some ten roundings of sums of up to 1536 products in each of 30 blocks, in random
// directions: sqrt(300 · 1536) · 2^-24 = 4e-5 of the largest logit; 4 times that for what norms and softmax
// amplify.
constexpr double kTolerance = 1.6e-4;

Doubles logits(const std::filesystem::path& folder, const mx::array& tokens) {
  const auto model = Model::open(folder);
  EXPECT_TRUE(model) << model.error().message;
  if (!model) return {};
  const mx::array result = model->forward(tokens);
  EXPECT_TRUE(evaluate({result}));
  return values(result);
}

TEST(Reference, LogitsAreTheSourcesLogits) {
  const auto folder = test::reference_models();
  OPTIQ_SKIP_WITHOUT_REFERENCE(folder);
  Random random(std::random_device{}());
  const mx::array tokens = test::random_indices(random, {2, 24}, 49152);
  const Doubles source = logits(*folder / "reference-source", tokens);
  const Doubles reference = logits(*folder / "reference-f32", tokens);
  ASSERT_FALSE(source.empty());
  EXPECT_TRUE(test::close(reference, source, kTolerance * test::largest(source)));
  // The same function, but not the same weights: equal to the bit would mean that nothing was scaled.
  EXPECT_NE(reference, source);
}

}  // namespace
}  // namespace optiq::model
