// Logits of transformers (tests/goldens/make_model_goldens.py) for every family and RoPE kind.
#include <gtest/gtest.h>

#include "optiq/model/model.h"
#include "support/arrays.h"
#include "support/model_folder.h"

namespace optiq::model {
namespace {

using test::close;
using test::Doubles;
using test::golden_folder;
using test::largest;
using test::values;

// Both sides round to f32 in another order: about 20 roundings of dot products of up to 64 terms in a row,
// 20 · sqrt(64) · 2^-24 = 1e-5 of the largest logit (measured: at most 1.3e-6).
constexpr double kTolerance = 1e-5;

const char* const kNames[] = {
    "llama",           "llama-tied-biased",   "llama-rope-linear", "llama-rope-dynamic", "llama-rope-llama3",
    "llama-rope-yarn", "mistral-window",      "qwen2-tied",        "qwen2-window",       "qwen3",
    "phi3-window",     "phi3-longrope-short", "phi3-longrope-long"};

class Golden : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto opened = Model::open(golden_folder(GetParam()));
    ASSERT_TRUE(opened) << opened.error().message;
    model_.emplace(std::move(*opened));
    const auto tensors = test::read_tensors(golden_folder(GetParam()) / "golden.safetensors");
    tokens_ = tensors.at("tokens");
    expected_ = values(tensors.at("logits"));
  }

  [[nodiscard]] double tolerance() const { return kTolerance * largest(expected_); }

  /// Tokens [begin, end) of every sequence.
  [[nodiscard]] mx::array tokens(int begin, int end) const {
    return mx::slice(tokens_, {0, begin}, {tokens_.shape(0), end});
  }

  /// The logits of passes that end at `ends`, over one cache, side by side.
  [[nodiscard]] Doubles cached_logits(const std::vector<int>& ends) const {
    KvCache cache = model_->make_cache();
    std::vector<mx::array> parts;
    int begin = 0;
    for (const int end : ends) {
      parts.push_back(model_->forward(tokens(begin, end), {.cache = &cache}));
      EXPECT_TRUE(evaluate({parts.back()}));
      begin = end;
    }
    EXPECT_EQ(cache.front().tokens, begin);
    return values(mx::concatenate(parts, 1));
  }

  std::optional<Model> model_;
  mx::array tokens_ = mx::array(0);
  Doubles expected_;
};

TEST_P(Golden, ForwardEqualsTransformers) {
  EXPECT_TRUE(close(model_->forward(tokens_), expected_, tolerance()));
}

/// All but longrope beyond its original length, where a pass that ends sooner is another function.
class CachedGolden : public Golden {};

TEST_P(CachedGolden, PassesEqualTheFullPass) {
  const int length = tokens_.shape(1);
  std::vector<int> one_by_one(static_cast<std::size_t>(length));
  for (int i = 0; i < length; ++i) one_by_one[static_cast<std::size_t>(i)] = i + 1;
  EXPECT_TRUE(close(cached_logits(one_by_one), expected_, tolerance()));
  EXPECT_TRUE(close(cached_logits({length / 2, length / 2 + 1, length}), expected_, tolerance()));
}

TEST_P(Golden, SequencesOfABatchAreIndependent) {
  const Doubles batch = values(model_->forward(tokens_));
  for (int row = 0; row < 2; ++row) {
    const mx::array single = mx::slice(tokens_, {row, 0}, {row + 1, tokens_.shape(1)});
    const auto half = static_cast<std::ptrdiff_t>(batch.size() / 2);
    EXPECT_TRUE(close(model_->forward(single),
                      Doubles(batch.begin() + row * half, batch.begin() + (row + 1) * half), tolerance()));
  }
}

TEST_P(Golden, EveryTensorIsUsed) {
  EXPECT_TRUE(model_->unused_tensors().empty());
}

INSTANTIATE_TEST_SUITE_P(Families, Golden, testing::ValuesIn(kNames), test::golden_name);
INSTANTIATE_TEST_SUITE_P(Families, CachedGolden, testing::ValuesIn(std::begin(kNames), std::end(kNames) - 1),
                         test::golden_name);

/// Positions far beyond the first buffer of 256 tokens: the buffer grows and keeps what it holds.
TEST(Cache, GrowsAcrossItsStep) {
  const Model model = Model::open(golden_folder("mistral-window")).value();
  Random random(11);
  const mx::array tokens = test::random_indices(random, {2, 300}, 64);
  KvCache cache = model.make_cache();
  std::vector<mx::array> parts;
  for (int begin = 0; begin < 300; begin += 50) {
    parts.push_back(model.forward(mx::slice(tokens, {0, begin}, {2, begin + 50}), {.cache = &cache}));
    ASSERT_TRUE(evaluate({parts.back()}));
  }
  EXPECT_EQ(cache.front().keys.shape(2), 512);
  const Doubles full = values(model.forward(tokens));
  EXPECT_TRUE(close(mx::concatenate(parts, 1), full, kTolerance * largest(full)));
}

/// Windows of 7 and 5 tokens; the first block of qwen2-window has none.
TEST(Cache, LetsGoOfWhatIsBehindAWindow) {
  for (const char* name : {"mistral-window", "qwen2-window"}) {
    const Model model = Model::open(golden_folder(name)).value();
    Random random(17);
    const mx::array tokens = test::random_indices(random, {2, 1600}, 64);
    KvCache cache = model.make_cache();
    std::vector<mx::array> parts;
    for (int begin = 0; begin < 1600;) {
      const int end = std::min(1600, begin + (begin % 3 == 0 ? 1 : 1 + static_cast<int>(random.below(90))));
      parts.push_back(model.forward(mx::slice(tokens, {0, begin}, {2, end}), {.cache = &cache}));
      ASSERT_TRUE(evaluate({parts.back()}));
      begin = end;
      for (std::size_t i = 0; i < cache.size(); ++i) {
        const auto window = model.config().window(static_cast<std::int64_t>(i));
        ASSERT_EQ(cache[i].tokens, begin);
        // A step behind the window, what is not yet a step, a pass, and the rest of the last step.
        const auto most = window == 0 ? 1792 : window + 3 * 256 + 90;
        ASSERT_LE(cache[i].keys.shape(2), most);
      }
    }
    EXPECT_GT(cache.back().released, 1000);
    EXPECT_EQ(cache.front().released == 0, model.config().window(0) == 0);
    const Doubles full = values(model.forward(tokens));
    EXPECT_TRUE(close(mx::concatenate(parts, 1), full, kTolerance * largest(full))) << name;
  }
}

/// The one-layer phi3 model with these longrope factors; its attention factor does not depend on the lengths.
Model longrope_model(const char* short_factors, const char* long_factors, int original) {
  test::ModelFolder folder = test::ModelFolder::golden("phi3-longrope-long");
  folder.config["original_max_position_embeddings"] = original;
  Json& rope = folder.config["rope_parameters"];
  const Json short_set = rope[short_factors], long_set = rope[long_factors];
  rope["short_factor"] = short_set;
  rope["long_factor"] = long_set;
  rope["attention_factor"] = 1.2;
  const test::TemporaryFolder place;
  folder.write(place.path());
  return Model::open(place.path()).value();
}

/// Up to the original length passes rotate by the short factors; the first pass beyond it by the long ones.
TEST(Longrope, SwitchesWhereAPassReachesBeyondTheOriginalLength) {
  const Model model = longrope_model("short_factor", "long_factor", 24);
  const Model always_short = longrope_model("short_factor", "short_factor", 24);
  const Model always_long = longrope_model("long_factor", "long_factor", 24);
  Random random(13);
  const mx::array tokens = test::random_indices(random, {1, 25}, 64);
  const mx::array within = mx::slice(tokens, {0, 0}, {1, 24}), beyond = mx::slice(tokens, {0, 24}, {1, 25});
  KvCache cache = model.make_cache(), short_cache = model.make_cache();
  Pass pass{.cache = &cache}, reference{.cache = &short_cache};
  EXPECT_TRUE(
      mx::array_equal(model.forward(within, pass), always_short.forward(within, reference)).item<bool>());
  EXPECT_TRUE(
      mx::array_equal(model.forward(beyond, pass), always_long.forward(beyond, reference)).item<bool>());
  EXPECT_FALSE(mx::array_equal(always_short.forward(tokens), always_long.forward(tokens)).item<bool>());
}

TEST(Cache, RefusesAnotherBatchSize) {
  const Model model = Model::open(golden_folder("llama")).value();
  KvCache cache = model.make_cache();
  (void)model.forward(mx::zeros({2, 3}, mx::int32), {.cache = &cache});
  EXPECT_THROW((void)model.forward(mx::zeros({1, 3}, mx::int32), {.cache = &cache}), std::invalid_argument);
}

TEST(Head, LastPositionAloneEqualsItsRowOfAll) {
  const Model model = Model::open(golden_folder("llama-tied-biased")).value();
  Random random(3);
  const mx::array hidden = test::random_array(random, {2, 5, 64});
  const Doubles all = values(mx::slice(model.head(hidden), {0, 4, 0}, {2, 5, 96}));
  EXPECT_TRUE(close(model.head(mx::slice(hidden, {0, 4, 0}, {2, 5, 64})), all, kTolerance * largest(all)));
}

TEST(Weights, AreNotCopiedFromTheMapping) {
  const Model model = Model::open(golden_folder("llama")).value();
  for (const ModuleShape& module : model.modules()) {
    const mx::array weight = model.dense_weight(module.name).value();
    const io::TensorView* stored = model.checkpoint().find(module.name + ".weight");
    EXPECT_EQ(static_cast<const void*>(weight.data<char>()), static_cast<const void*>(stored->bytes.data()));
  }
}

TEST(Pass, TapSeesTheInputOfEveryLinearModule) {
  for (const char* name : {"llama", "llama-tied-biased", "phi3-window"}) {
    const Model model = Model::open(golden_folder(name)).value();
    std::unordered_map<std::string, mx::Shape> seen;
    Pass pass;
    pass.tap = [&](const std::string& module, const mx::array& input) {
      seen.emplace(module, input.shape());
    };
    (void)model.forward(mx::zeros({2, 3}, mx::int32), pass);
    for (const ModuleShape& module : model.modules()) {
      const bool looks_up_only =
          module.layer < 0 && module.name != "lm_head" && !model.config().tied_embeddings;
      ASSERT_EQ(seen.contains(module.name), !looks_up_only) << module.name;
      if (looks_up_only) continue;
      EXPECT_EQ(seen.at(module.name), (mx::Shape{2, 3, static_cast<int>(module.in_features)})) << module.name;
    }
  }
}

TEST(Pass, ReplacedWeightsActAsIfStored) {
  const Model model = Model::open(golden_folder("qwen2-tied")).value();
  Random random(5);
  const mx::array tokens = test::random_indices(random, {1, 6}, 64);
  for (const char* module : {"model.embed_tokens", "model.layers.1.mlp.down_proj"}) {
    test::ModelFolder changed = test::ModelFolder::golden("qwen2-tied");
    const std::string tensor = std::string(module) + ".weight";
    changed.set(tensor, test::random_array(random, changed.at(tensor).shape(), mx::bfloat16, 0.2));
    const std::unordered_map<std::string, mx::array> weights{{module, changed.at(tensor)}};
    const test::TemporaryFolder folder;
    changed.write(folder.path());
    const Doubles expected = values(Model::open(folder.path()).value().forward(tokens));
    EXPECT_TRUE(
        close(model.forward(tokens, {.weights = &weights}), expected, kTolerance * largest(expected)));
    EXPECT_FALSE(close(model.forward(tokens), expected, 100 * kTolerance * largest(expected)));
  }
}

}  // namespace
}  // namespace optiq::model
