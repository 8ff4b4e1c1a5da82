// The engine against transformers' logits (tests/goldens) for every family, and against the graphs over MLX.
#include "optiq/engine/engine.h"

#include <gtest/gtest.h>

#include "optiq/quant/format.h"
#include "support/model_folder.h"
#include "support/quantized_model.h"
#include "support/seed.h"
#include "support/tiny_model.h"
#include "support/token_ids.h"

namespace optiq::engine {
namespace {

namespace mx = mlx::core;
using kernels::Compute;
using kernels::cpu::CacheStorage;
using test::Doubles;
using test::Ids;
using test::random_ids;

/// As in tests/model/golden_test.cpp: about 20 roundings of dot products of up to 64 terms in a row.
constexpr double kTolerance = 1e-5;

Doubles doubles(std::span<const float> values) {
  return {values.begin(), values.end()};
}

class EngineGolden : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const auto tensors = test::read_tensors(test::golden_folder(GetParam()) / "golden.safetensors");
    const auto tokens = tensors.at("tokens");
    length_ = static_cast<std::size_t>(tokens.shape(1));
    const Doubles ids = test::values(tokens);
    ids_.assign(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(length_));
    logits_ = test::values(tensors.at("logits"));
    width_ = logits_.size() / static_cast<std::size_t>(tokens.shape(0)) / length_;
  }

  [[nodiscard]] Doubles expected(std::size_t position) const {
    const auto begin = logits_.begin() + static_cast<std::ptrdiff_t>(position * width_);
    return {begin, begin + static_cast<std::ptrdiff_t>(width_)};
  }

  Ids ids_;
  Doubles logits_;
  std::size_t length_ = 0, width_ = 0;
};

TEST_P(EngineGolden, LastLogitsEqualTransformers) {
  Engine engine(test::golden_model(GetParam()), {Compute::f32, CacheStorage::f32});
  const auto logits = engine.feed(ids_);
  ASSERT_TRUE(logits) << logits.error().message;
  EXPECT_TRUE(test::close(doubles(*logits), expected(length_ - 1), kTolerance * test::largest(logits_)));
  EXPECT_EQ(engine.tokens(), length_);
}

/// All but longrope beyond its original length, where a pass that ends sooner is another function.
class EngineGoldenSteps : public EngineGolden {};

TEST_P(EngineGoldenSteps, EveryStepEqualsTransformers) {
  Engine engine(test::golden_model(GetParam()), {Compute::f32, CacheStorage::f32});
  for (std::size_t i = 0; i < length_; ++i) {
    const auto logits = engine.feed({&ids_[i], 1});
    ASSERT_TRUE(logits) << logits.error().message;
    ASSERT_TRUE(test::close(doubles(*logits), expected(i), kTolerance * test::largest(logits_))) << i;
  }
  // Back and forth again.
  engine.truncate(length_ / 2);
  const auto again = engine.feed(std::span(ids_).subspan(length_ / 2));
  ASSERT_TRUE(again);
  EXPECT_TRUE(test::close(doubles(*again), expected(length_ - 1), kTolerance * test::largest(logits_)));
}

INSTANTIATE_TEST_SUITE_P(Families, EngineGolden,
                         testing::Values("llama", "llama-tied-biased", "llama-rope-linear",
                                         "llama-rope-dynamic", "llama-rope-llama3", "llama-rope-yarn",
                                         "mistral-window", "qwen2-tied", "qwen2-window", "qwen3",
                                         "phi3-window", "phi3-longrope-short", "phi3-longrope-long"),
                         test::golden_name);
INSTANTIATE_TEST_SUITE_P(Families, EngineGoldenSteps,
                         testing::Values("llama", "llama-tied-biased", "llama-rope-llama3", "mistral-window",
                                         "qwen2-window", "qwen3", "phi3-window", "phi3-longrope-short"),
                         test::golden_name);

Doubles last_logits(const model::Model& model, const Ids& ids) {
  return test::logits_of(model, ids).back();
}

TEST(Engine, EqualsTheDequantizedModelInEveryFormat) {
  Random random(test::seed());
  for (const char* name : {"llama", "qwen2-tied", "phi3-window"}) {
    const test::QuantizedPair pair = test::quantized_pair(name, mx::bfloat16);
    const test::OpenedModel quantized(pair.quantized), dense(pair.dense);
    ASSERT_TRUE(quantized.model && dense.model);
    const Ids ids = random_ids(random, 20, 64);
    const Doubles expected = last_logits(*dense.model, ids);
    Engine exact(*quantized.model, {Compute::f32, CacheStorage::f32});
    EXPECT_TRUE(
        test::close(doubles(exact.feed(ids).value()), expected, kTolerance * test::largest(expected)));
    // Rounding to 8 bits moves each input of a product by up to 1/254 of its group's largest.
    Engine rounded(*quantized.model);
    const Doubles moved = doubles(rounded.feed(ids).value());
    EXPECT_FALSE(test::close(moved, expected, kTolerance * test::largest(expected)));
    EXPECT_LT(test::kl_divergence(expected, moved), 1e-2) << name;
  }
}

/// More tokens than one pass takes, then single steps: pages and passes have seams.
TEST(Engine, LongPromptsCrossPassesAndPages) {
  Random random(test::seed());
  const model::Model model = test::golden_model("mistral-window");
  const Ids ids = random_ids(random, 700, 64);
  Engine engine(model, {Compute::f32, CacheStorage::f32});
  ASSERT_TRUE(engine.feed(std::span(ids).first(650)));
  for (std::size_t i = 650; i < 699; ++i) ASSERT_TRUE(engine.feed({&ids[i], 1}));
  const Doubles logits = doubles(engine.feed({&ids[699], 1}).value()), expected = last_logits(model, ids);
  EXPECT_TRUE(test::close(logits, expected, kTolerance * test::largest(expected)));
  EXPECT_GT(engine.cache_bytes(), 0u);
}

TEST(Engine, StoredKeysAndValuesKeepTheirPrecision) {
  Random random(test::seed());
  const model::Model model = test::golden_model("llama");
  const Ids ids = random_ids(random, 40, 64);
  const Doubles expected = last_logits(model, ids);
  for (const auto& [storage, most] : {std::pair{CacheStorage::f16, 1e-5}, std::pair{CacheStorage::bf16, 1e-3},
                                      std::pair{CacheStorage::int8, 1e-2}}) {
    Engine engine(model, {Compute::f32, storage});
    const double kl = test::kl_divergence(expected, doubles(engine.feed(ids).value()));
    EXPECT_LT(kl, most);
    EXPECT_GT(kl, 0) << "nothing was rounded";
  }
}

/// Token by token, as a packed cache is made for; what was packed cannot be what was fed.
TEST(Engine, PackedKeysAndValuesKeepTheirPrecision) {
  Random random(test::seed());
  const model::Model model = test::golden_model("llama");
  const Ids ids = random_ids(random, 400, 64);
  const std::vector<Doubles> expected = test::logits_of(model, ids);
  // Mean over 100 steps: that of a single one varies by orders of magnitude.
  const auto divergence = [&](CacheStorage storage) {
    Engine engine(model, {Compute::f32, storage});
    EXPECT_TRUE(engine.feed(std::span(ids).first(300)));
    double sum = 0;
    for (std::size_t i = 300; i < 400; ++i)
      sum += test::kl_divergence(expected[i], doubles(engine.feed({&ids[i], 1}).value()));
    return sum / 100;
  };
  // Two bits more divide the error by 4 and the divergence by 16; three, by 8 and 64.
  const double at_3 = divergence(CacheStorage::packed3), at_5 = divergence(CacheStorage::packed5),
               at_8 = divergence(CacheStorage::packed8);
  EXPECT_LT(at_5, at_3 / 4);
  EXPECT_LT(at_8, at_5 / 8);
  EXPECT_LT(at_8, 0.001);
  EXPECT_LT(divergence(CacheStorage::packed4), at_3);
  EXPECT_LT(divergence(CacheStorage::packed6), at_5);
}

/// What rotation gains is measured on a real model (bench/results); here, that scores stay what they are.
TEST(Engine, RotatedKeysGiveTheSameScores) {
  Random random(test::seed());
  const model::Model model = test::golden_model("llama");
  const Ids ids = random_ids(random, 600, 64);
  const std::vector<Doubles> expected = test::logits_of(model, ids);
  const auto divergence = [&](kernels::cpu::CacheFormat format, bool rotate) {
    Engine engine(model, {.compute = Compute::f32, .cache = format, .rotate_keys = rotate});
    double sum = 0;
    EXPECT_TRUE(engine.feed(std::span(ids).first(300)));
    for (std::size_t i = 300; i < ids.size(); ++i)
      sum += test::kl_divergence(expected[i], doubles(engine.feed({&ids[i], 1}).value()));
    return sum / 300;
  };
  EXPECT_LT(divergence({CacheStorage::packed8, CacheStorage::f16}, true), 1e-3);
  EXPECT_NE(divergence({CacheStorage::packed4, CacheStorage::f16}, true),
            divergence({CacheStorage::packed4, CacheStorage::f16}, false));
  EXPECT_EQ(divergence({CacheStorage::f16, CacheStorage::packed4}, true),
            divergence({CacheStorage::f16, CacheStorage::packed4}, false))
      << "keys that are not packed need no rotation";
}

TEST(Engine, RotatesOnlyPowersOfTwo) {
  Random random(test::seed());
  test::ModelFolder content = test::ModelFolder::golden("llama");
  const int hidden = content.config["hidden_size"].get<int>();
  content.config["head_dim"] = 12;
  for (int layer = 0; layer < content.config["num_hidden_layers"].get<int>(); ++layer) {
    const auto set = [&](const char* part, int rows, int columns) {
      content.set(fmt::format("model.layers.{}.self_attn.{}.weight", layer, part),
                  test::random_array(random, {rows, columns}));
    };
    const int heads = content.config["num_attention_heads"].get<int>(),
              kv_heads = content.config["num_key_value_heads"].get<int>();
    set("q_proj", heads * 12, hidden);
    set("k_proj", kv_heads * 12, hidden);
    set("v_proj", kv_heads * 12, hidden);
    set("o_proj", hidden, heads * 12);
  }
  const test::OpenedModel opened(content);
  EXPECT_THROW(Engine(*opened.model, {.cache = CacheStorage::packed4, .rotate_keys = true}),
               std::invalid_argument);
  EXPECT_NO_THROW(Engine(*opened.model, {.cache = CacheStorage::packed4}));
}

TEST(Engine, AllLogitsAreThoseOfEveryStep) {
  Random random(test::seed());
  const model::Model model = test::golden_model("qwen2-window");
  const Ids ids = random_ids(random, 40, 64);
  Engine engine(model, {Compute::f32, CacheStorage::f32});
  const std::vector<Doubles> expected = test::logits_of(model, ids);
  for (const std::size_t first : {0, 25}) {
    const std::size_t count = first == 0 ? 25 : 15;
    const Doubles all = doubles(engine.feed_all(std::span(ids).subspan(first, count)).value());
    ASSERT_EQ(all.size(), count * 64);
    for (std::size_t i = 0; i < count; ++i) {
      const auto row = all.begin() + static_cast<std::ptrdiff_t>(i * 64);
      EXPECT_TRUE(
          test::close(Doubles(row, row + 64), expected[first + i], kTolerance * test::largest(expected[0])));
    }
  }
  EXPECT_EQ(engine.feed_all({}).error().code, ErrorCode::usage);
  EXPECT_EQ(engine.feed_all(Ids(kPassTokens + 1, 1)).error().code, ErrorCode::usage);
}

/// Memory of a model whose blocks all have windows does not grow; nothing comes back from what was let go of.
TEST(Engine, SlidingWindowsLetGo) {
  Random random(test::seed());
  const model::Model model = test::golden_model("mistral-window");
  const Ids ids = random_ids(random, 3000, 64);
  for (const CacheStorage storage : {CacheStorage::f32, CacheStorage::packed4}) {
    Engine engine(model, {Compute::f32, storage});
    ASSERT_TRUE(engine.feed(std::span(ids).first(1500)));
    const std::size_t bytes = engine.cache_bytes();
    const Doubles at_1500 = doubles(engine.feed({&ids[1500], 1}).value());
    ASSERT_TRUE(engine.feed(std::span(ids).subspan(1501, 1400)));
    EXPECT_LE(engine.cache_bytes(), bytes + bytes / 2);
    engine.truncate(1500);
    ASSERT_EQ(engine.tokens(), 0u);
    ASSERT_TRUE(engine.feed(std::span(ids).first(1500)));
    EXPECT_EQ(doubles(engine.feed({&ids[1500], 1}).value()), at_1500);
  }
}

/// Moved or not, the weights are the same: so are the logits, before, while and after.
TEST(Engine, MovingWeightsChangesNothing) {
  Random random(test::seed());
  const test::QuantizedPair pair = test::quantized_pair("llama", mx::bfloat16);
  const test::OpenedModel quantized(pair.quantized);
  Engine moved(*quantized.model), mapped(*quantized.model, {.huge_pages = false});
  EXPECT_TRUE(mapped.settled());
  const Ids ids = random_ids(random, 12, 64);
  const bool movable = !moved.settled();  // where the system has huge pages
  for (const std::int32_t& id : ids) {
    const Doubles expected = doubles(mapped.feed({&id, 1}).value());
    EXPECT_EQ(doubles(moved.feed({&id, 1}).value()), expected);
  }
  EXPECT_TRUE(moved.settled() || !movable);
  // The mapping whose pages were let go can still be read.
  Engine again(*quantized.model, {.huge_pages = false});
  moved.truncate(0);
  EXPECT_EQ(doubles(again.feed(ids).value()), doubles(moved.feed(ids).value()));
}

TEST(Engine, RefusesNothingToFeed) {
  Engine engine(test::golden_model("llama"));
  EXPECT_EQ(engine.feed({}).error().code, ErrorCode::usage);
}

}  // namespace
}  // namespace optiq::engine
