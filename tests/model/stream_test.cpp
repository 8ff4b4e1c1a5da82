// Activations in memory and on disk; what a stage's weights are.
#include "optiq/model/stream.h"

#include <gtest/gtest.h>

#include "support/arrays.h"
#include "support/contains.h"
#include "support/model_folder.h"
#include "support/seed.h"
#include "support/temporary_folder.h"

namespace optiq::model {
namespace {

TEST(Stream, ActivationsComeBackAsTheyWere) {
  Random random(test::seed());
  const test::TemporaryFolder folder;
  // 3 · 120 bytes beside 1000 do not fit into 1359.
  for (const std::uint64_t limit : {1360, 1359}) {
    auto activations = make_activations(3, 120, 1000, {limit, folder.path()}).value();
    EXPECT_EQ(activations.is_on_disk(), limit == 1359);
    for (const int round : {0, 1}) {
      SCOPED_TRACE(round);
      for (const std::size_t i : {2, 0, 1}) {
        const mx::array value = test::random_array(random, {2, 3, 5 - static_cast<int>(i)});
        ASSERT_TRUE(activations.put(i, value));
        const mx::array found = activations.get(i).value();
        EXPECT_EQ(found.shape(), value.shape());
        EXPECT_EQ(test::values(found), test::values(value));
      }
    }
  }
  auto small = Activations::on_disk(1, 16, folder.path()).value();
  const Status status = small.put(0, test::random_array(random, {5}));
  ASSERT_FALSE(status);
  EXPECT_TRUE(test::contains(status.error().message, "20 bytes, 16 were announced"));
}

TEST(Stream, StagesTogetherAreTheWholeModel) {
  const Model model = Model::open(test::golden_folder("llama"), Access::streamed).value();
  std::uint64_t bytes = stage_bytes(model, kOutsideBlocks);
  for (std::int64_t layer = 0; layer < model.config().layers; ++layer) {
    EXPECT_LE(stage_bytes(model, layer), largest_block_bytes(model));
    bytes += stage_bytes(model, layer);
  }
  std::uint64_t expected = 0;
  for (const auto& [name, tensor] : model.checkpoint().tensors()) expected += tensor.bytes.size();
  EXPECT_EQ(bytes, expected);
  EXPECT_GT(pass_bytes(model, 20), kProcessBytes + largest_block_bytes(model));
  EXPECT_GT(pass_bytes(model, 40), pass_bytes(model, 20));
}

/// Pages that were given back hold the same weights when they are read again.
TEST(Stream, StageWeightsChangeNoResult) {
  const Model kept = Model::open(test::golden_folder("llama")).value();
  const Model streamed = Model::open(test::golden_folder("llama"), Access::streamed).value();
  const mx::array tokens({1, 5, 9, 2, 7}, {1, 5}, mx::int32);
  mx::array hidden = kept.embed(tokens);
  for (std::int64_t layer = 0; layer < kept.config().layers; ++layer) {
    const mx::array expected = kept.block(layer, hidden);
    for (const int round : {0, 1}) {
      SCOPED_TRACE(round);
      const StageWeights weights(streamed, layer, kOutsideBlocks);
      EXPECT_EQ(test::values(streamed.block(layer, hidden)), test::values(expected));
    }
    hidden = expected;
  }
}

}  // namespace
}  // namespace optiq::model
