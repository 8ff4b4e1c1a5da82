// MLX-quantized checkpoints, written with MLX's own quantizer: the same logits as the dequantized dense
// model.
#include <gtest/gtest.h>

#include "optiq/model/model.h"
#include "support/arrays.h"
#include "support/model_folder.h"

namespace optiq::model {
namespace {

using test::close;
using test::Doubles;
using test::largest;
using test::ModelFolder;
using test::values;

// Two f32 evaluations of one function: see golden_test.cpp.
constexpr double kTolerance = 1e-5;

/// A quantized model and the dense one of the same weights.
struct Pair {
  ModelFolder quantized;
  ModelFolder dense;
};

/// Every module of `name` in a format of its own (all widths in turn; groups as its width allows), but every
/// seventh dense. Scales stay in `dtype`; the dense weights are q·s + b of those very scales, in f32.
Pair quantize(const std::string& name, mx::Dtype dtype) {
  Pair pair{ModelFolder::golden(name), ModelFolder::golden(name)};
  pair.quantized.config["quantization"] = {{"group_size", 32}, {"bits", 4}, {"mode", "affine"}};
  const ModelConfig config = parse_config(pair.dense.config, name).value();
  int i = 0;
  for (const ModuleShape& module : module_shapes(config)) {
    const int bits = quant::kBitChoices[i % 6];
    const int group = module.in_features % 64 == 0 && i % 2 == 0 ? 64 : 32;
    Json& own = pair.quantized.config["quantization"][module.name];
    if (++i % 7 == 0) {
      own = false;
      continue;
    }
    own = {{"group_size", group}, {"bits", bits}};
    const mx::array weight = mx::astype(pair.dense.at(module.name + ".weight"), dtype);
    const auto packed = mx::quantize(weight, group, bits);
    pair.quantized.set(module.name + ".weight", packed[0]);
    pair.quantized.set(module.name + ".scales", packed[1]);
    pair.quantized.set(module.name + ".biases", packed[2]);
    pair.dense.set(module.name + ".weight", mx::dequantize(packed[0], mx::astype(packed[1], mx::float32),
                                                           mx::astype(packed[2], mx::float32), group, bits));
  }
  return pair;
}

struct Opened {
  explicit Opened(const ModelFolder& folder) {
    folder.write(place.path());
    auto opened = Model::open(place.path());
    EXPECT_TRUE(opened) << opened.error().message;
    if (opened) model.emplace(std::move(*opened));
  }
  test::TemporaryFolder place;
  std::optional<Model> model;
};

class Quantized : public testing::TestWithParam<const char*> {};

TEST_P(Quantized, EqualsTheDequantizedModel) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    const Pair pair = quantize(GetParam(), dtype);
    const Opened quantized(pair.quantized), dense(pair.dense);
    ASSERT_TRUE(quantized.model && dense.model);
    EXPECT_TRUE(quantized.model->unused_tensors().empty());
    Random random(21);
    const mx::array tokens = test::random_indices(random, {2, 9}, 64);
    const Doubles expected = values(dense.model->forward(tokens));
    EXPECT_TRUE(close(quantized.model->forward(tokens), expected, kTolerance * largest(expected)));
  }
}

TEST_P(Quantized, FormatsAreThoseOfTheConfiguration) {
  const Pair pair = quantize(GetParam(), mx::bfloat16);
  const Opened opened(pair.quantized);
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
  const Opened opened(folder);
  ASSERT_TRUE(opened.model);
  EXPECT_TRUE(opened.model->format("lm_head").is_dense());
}

TEST(QuantizedModules, AReplacedWeightWins) {
  const Pair pair = quantize("llama", mx::float32);
  const Opened quantized(pair.quantized), dense(pair.dense);
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
