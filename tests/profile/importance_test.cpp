#include "optiq/profile/importance.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/contains.h"
#include "support/random_tensors.h"
#include "support/seed.h"
#include "support/temporary_folder.h"

namespace optiq::profile {
namespace {

class ImportanceFile : public testing::Test {
 protected:
  void write(const std::vector<test::StoredTensor>& tensors) {
    auto writer = io::SafetensorsWriter::create(path_, test::specs_of(tensors), {}).value();
    for (const auto& tensor : tensors) ASSERT_TRUE(writer.append(tensor.bytes));
    ASSERT_TRUE(writer.finish());
  }

  void expect_bad(std::string_view part) {
    const auto importance = read_importance(path_);
    ASSERT_FALSE(importance);
    EXPECT_EQ(importance.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(test::contains(importance.error().message, path_.string()));
    EXPECT_TRUE(test::contains(importance.error().message, part));
  }

  Random random_{test::seed()};
  test::TemporaryFolder folder_;
  calibrate::TokenBatch batch_{2, 3, {5, 0, 7, 1, 49151, 2}};
  std::filesystem::path path_ = folder_.path() / "x.importance.safetensors";
};

TEST(ImportancePath, StandsBesideTheSensitivities) {
  EXPECT_EQ(importance_path("x/sensitivity.json"), "x/sensitivity.importance.safetensors");
}

TEST_F(ImportanceFile, ReadsBackExactly) {
  Importance importance;
  for (const char* module : {"model.layers.0.mlp.down_proj", "lm_head"}) {
    for (int i = 0; i < 50; ++i)
      importance[module].push_back(static_cast<float>(std::exp(9 * random_.normal())));
  }
  importance["lm_head"][3] = 0;
  ASSERT_TRUE(write_importance(path_, importance, batch_));
  EXPECT_EQ(read_importance(path_).value(), importance);
  importance.erase("lm_head");
  ASSERT_TRUE(write_importance(path_, importance, batch_));
  EXPECT_EQ(read_importance(path_).value(), importance);
}

TEST_F(ImportanceFile, HoldsTheCalibrationTokens) {
  ASSERT_TRUE(write_importance(path_, {{"w", {1, 2}}}, batch_));
  const auto batch = read_calibration_tokens(path_);
  ASSERT_TRUE(batch) << batch.error().message;
  EXPECT_EQ(batch->sequences, 2);
  EXPECT_EQ(batch->tokens, 3);
  EXPECT_EQ(batch->ids, batch_.ids);
}

TEST_F(ImportanceFile, TokensThatAreMissingOrBadAreBadInput) {
  const auto expect_no_tokens = [&](std::string_view part) {
    const auto batch = read_calibration_tokens(path_);
    ASSERT_FALSE(batch);
    EXPECT_EQ(batch.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(test::contains(batch.error().message, part)) << batch.error().message;
  };
  write({test::random_tensor(random_, "w", DType::f32, {4})});
  expect_no_tokens("calibration.tokens: expected calibration tokens");
  write({test::random_tensor(random_, "calibration.tokens", DType::f32, {4, 2})});
  expect_no_tokens("expected calibration tokens");
  batch_.ids[4] = -1;
  ASSERT_TRUE(write_importance(path_, {}, batch_));
  expect_no_tokens("expected tokens ≥ 0, got -1");
}

TEST_F(ImportanceFile, BadFilesAreBadInput) {
  expect_bad("");  // missing
  write({test::random_tensor(random_, "w", DType::bf16, {4})});
  expect_bad("w: expected a vector of F32");
  write({test::random_tensor(random_, "w", DType::f32, {4, 2})});
  expect_bad("w: expected a vector of F32");
  for (const float bad : {-1.0f, std::nanf(""), INFINITY}) {
    test::StoredTensor tensor{{"w", DType::f32, {2}}, {}};
    const float values[] = {1, bad};
    const auto bytes = std::as_bytes(std::span(values));
    tensor.bytes.assign(bytes.begin(), bytes.end());
    write({tensor});
    expect_bad("w: expected finite values");
  }
}

TEST_F(ImportanceFile, HoldsTheWeightsOfTokens) {
  const TokenWeights weights{{"w", {1, 0, 0.5f, 2, 1.5f, 3}}, {"lm_head", {4, 0.25f, 0, 1, 1, 1}}};
  ASSERT_TRUE(write_importance(path_, {{"w", {1, 2}}}, batch_, weights));
  EXPECT_EQ(read_token_weights(path_, batch_).value(), weights);
  EXPECT_EQ(read_importance(path_).value(), (Importance{{"w", {1, 2}}}));
  EXPECT_EQ(read_calibration_tokens(path_)->ids, batch_.ids);
  ASSERT_TRUE(write_importance(path_, {{"w", {1, 2}}}, batch_));
  EXPECT_TRUE(read_token_weights(path_, batch_)->empty());
}

TEST_F(ImportanceFile, BadWeightsOfTokensAreBadInput) {
  const auto expect_bad_weights = [&](std::string_view part) {
    const auto weights = read_token_weights(path_, batch_);
    ASSERT_FALSE(weights);
    EXPECT_EQ(weights.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(test::contains(weights.error().message, path_.string()));
    EXPECT_TRUE(test::contains(weights.error().message, part)) << weights.error().message;
  };
  write({test::random_tensor(random_, "w.token_weights", DType::f32, {2, 3})});
  expect_bad_weights("w.token_weights: expected BF16 [2, 3]");
  write({test::random_tensor(random_, "w.token_weights", DType::bf16, {3, 2})});
  expect_bad_weights("as the tokens are, got BF16 [3, 2]");
  for (const float bad : {-1.0f, std::nanf(""), INFINITY}) {
    ASSERT_TRUE(write_importance(path_, {}, batch_, {{"w", {1, 1, 1, bad, 1, 1}}}));
    expect_bad_weights("w.token_weights: expected finite values");
  }
}

TEST_F(ImportanceFile, AFolderThatIsMissingIsOutOfResources) {
  const Status status = write_importance(folder_.path() / "none" / "x.safetensors", {{"w", {1}}}, batch_);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::out_of_resources);
}

}  // namespace
}  // namespace optiq::profile
