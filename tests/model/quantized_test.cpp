// MLX-quantized checkpoints, written with MLX's own quantizer: the same logits as the dequantized dense
// model.
#include <gtest/gtest.h>

#include "optiq/model/model.h"
#include "support/arrays.h"
#include "support/quantized_model.h"

namespace optiq::model {
namespace {

using test::close;
using test::Doubles;
using test::largest;
using test::ModelFolder;
using test::OpenedModel;
using test::quantized_pair;
using test::QuantizedPair;
using test::values;

// Two f32 evaluations of one function: see golden_test.cpp.
constexpr double kTolerance = 1e-5;

class Quantized : public testing::TestWithParam<const char*> {};

TEST_P(Quantized, EqualsTheDequantizedModel) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    const QuantizedPair pair = quantized_pair(GetParam(), dtype);
    const OpenedModel quantized(pair.quantized), dense(pair.dense);
    ASSERT_TRUE(quantized.model && dense.model);
    EXPECT_TRUE(quantized.model->unused_tensors().empty());
    Random random(21);
    const mx::array tokens = test::random_indices(random, {2, 9}, 64);
    const Doubles expected = values(dense.model->forward(tokens));
    EXPECT_TRUE(close(quantized.model->forward(tokens), expected, kTolerance * largest(expected)));
  }
}

TEST_P(Quantized, FormatsAreThoseOfTheConfiguration) {
  const QuantizedPair pair = quantized_pair(GetParam(), mx::bfloat16);
  const OpenedModel opened(pair.quantized);
  ASSERT_TRUE(opened.model);
  for (const ModuleShape& module : opened.model->modules()) {
    const quant::Format format = opened.model->format(module.name);
    EXPECT_EQ(format, module_format(pair.quantized.config, module.name, "config.json").value());
    EXPECT_EQ(opened.model->dense_weight(module.name).has_value(), format.is_dense()) << module.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Quantized,
                         testing::Values("llama", "llama-tied-biased", "qwen3", "phi3-window"),
                         test::golden_name);

TEST(QuantizedModules, UnlistedOnesWithoutScalesAreDenseAsMlxLmReadsThem) {
  ModelFolder folder = ModelFolder::golden("llama");
  folder.config["quantization"] = {{"group_size", 32}, {"bits", 4}};
  const OpenedModel opened(folder);
  ASSERT_TRUE(opened.model);
  EXPECT_TRUE(opened.model->format("lm_head").is_dense());
}

TEST(QuantizedModules, AReplacedWeightWins) {
  const QuantizedPair pair = quantized_pair("llama", mx::float32);
  const OpenedModel quantized(pair.quantized), dense(pair.dense);
  ASSERT_TRUE(quantized.model && dense.model);
  Random random(8);
  const mx::array tokens = test::random_indices(random, {1, 5}, 64);
  std::unordered_map<std::string, mx::array> weights;
  for (const ModuleShape& module : dense.model->modules()) {
    weights.emplace(module.name, test::random_array(random, dense.model->dense_weight(module.name)->shape(),
                                                    mx::float32, 0.2));
  }
  const Doubles expected = values(dense.model->forward(tokens, {.weights = &weights}));
  EXPECT_TRUE(close(quantized.model->forward(tokens, {.weights = &weights}), expected,
                    kTolerance * largest(expected)));
}

}  // namespace
}  // namespace optiq::model
