// What the benchmark layer computes from its measurements. How long things take is nobody's test.
#include <gtest/gtest.h>

#include "optiq/benchmark/decoding.h"
#include "optiq/benchmark/latency.h"
#include "support/contains.h"
#include "support/seed.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace optiq::benchmark {
namespace {

class Benchmark : public testing::Test {
 protected:
  Benchmark() : random_(test::seed()) {
    test::copy_tokenizer("byte_bpe", folder_.path());
    test::resized(test::ModelFolder::golden("llama-tied-biased"), random_, test::kTinyVocabulary, 64)
        .write(folder_.path());
  }

  test::TemporaryFolder folder_;
  Random random_;
};

TEST(Spread, IsTheMedianBetweenLeastAndMost) {
  const Spread spread = spread_of({5, 1, 9, 2, 3});
  EXPECT_EQ(spread.median, 3);
  EXPECT_EQ(spread.least, 1);
  EXPECT_EQ(spread.most, 9);
  const Spread per_second = rate(18, spread);
  EXPECT_EQ(per_second.median, 6);
  EXPECT_EQ(per_second.least, 2);
  EXPECT_EQ(per_second.most, 18);
}

TEST_F(Benchmark, CountsTheBytesThatATokenReads) {
  const DecodingOptions options{.prompts = {8}, .depths = {0, 20}, .decoded_tokens = 4, .repeats = 2};
  const auto report = measure_decoding(folder_.path(), options, nullptr);
  ASSERT_TRUE(report) << report.error().message;
  const model::Model model = model::Model::open(folder_.path()).value();
  double weights = 0;  // tied: the embeddings are the head
  for (const auto& module : model.modules())
    weights += static_cast<double>(model.checkpoint().find(module.name + ".weight")->bytes.size());
  const model::ModelConfig& c = model.config();
  const double token = 2.0 * 2 * static_cast<double>(c.layers * c.kv_heads * c.head_dim);
  EXPECT_DOUBLE_EQ(report->decode[0].bytes_per_token, weights + 2 * token);
  EXPECT_DOUBLE_EQ(report->decode[1].bytes_per_token, weights + 22 * token);
  EXPECT_EQ(report->file_bytes, model.checkpoint().file_bytes());
  EXPECT_GT(report->prompts[0].int8_fraction, 0);
  EXPECT_GT(report->decode[0].read_fraction.median, 0);
}

TEST_F(Benchmark, RefusesLengthsThatTheModelHasNoPositionsFor) {
  for (const auto& [options, mention] :
       {std::pair{DecodingOptions{.prompts = {65}, .depths = {0}, .decoded_tokens = 1, .repeats = 1}, "65"},
        std::pair{DecodingOptions{.prompts = {1}, .depths = {0}, .decoded_tokens = 1, .repeats = 0},
                  "repeats"},
        std::pair{DecodingOptions{.prompts = {0}, .depths = {0}, .decoded_tokens = 1, .repeats = 1}, "0"},
        std::pair{DecodingOptions{.prompts = {1}, .depths = {60}, .decoded_tokens = 4, .repeats = 1}, "60"},
        std::pair{DecodingOptions{.prompts = {1}, .depths = {-1}, .decoded_tokens = 4, .repeats = 1},
                  "-1"}}) {
    const auto report = measure_decoding(folder_.path(), options, nullptr);
    ASSERT_FALSE(report);
    EXPECT_EQ(report.error().code, ErrorCode::usage);
    EXPECT_TRUE(test::contains(report.error().message, mention)) << report.error().message;
  }
}

TEST_F(Benchmark, TheLatencyTableHoldsEveryShapeAndFormat) {
  const auto table = measure_latency(folder_.path(), {.engine = {}, .repeats = 1}, nullptr);
  ASSERT_TRUE(table) << table.error().message;
  EXPECT_TRUE(plan::check_latency(*table, "table"));
  const model::Model model = model::Model::open(folder_.path()).value();
  for (const auto& module : model.modules()) {
    for (const int bits : quant::kBitChoices) {
      const auto seconds =
          table->seconds(module.out_features, module.in_features, {.bits = bits, .group_size = 32});
      ASSERT_TRUE(seconds) << seconds.error().message;
      EXPECT_GT(*seconds, 0);
    }
  }
}

}  // namespace
}  // namespace optiq::benchmark
