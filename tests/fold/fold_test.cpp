#include "optiq/fold/fold.h"

#include <gtest/gtest.h>

#include "src/fold/rotation.h"
#include "src/fold/scaling.h"
#include "support/contains.h"
#include "support/random_batch.h"
#include "support/seed.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace optiq::fold {
namespace {

namespace fs = std::filesystem;
using test::Doubles;

/// A golden model in f32 with norms that make its channels differ, so that every folding has something to do.
model::Model uneven_model(const std::string& golden, const fs::path& folder, Random& random) {
  test::ModelFolder content = test::ModelFolder::golden(golden);
  for (auto& [name, tensor] : content.tensors) {
    tensor = mx::astype(tensor, mx::float32);
    tensor.eval();
    if (!name.ends_with("norm.weight")) continue;
    std::vector<float> factors(tensor.size());
    for (float& factor : factors) factor = static_cast<float>(std::exp(0.7 * random.normal()));
    tensor = tensor * mx::array(factors.begin(), tensor.shape());
    tensor.eval();
  }
  fs::create_directories(folder);
  test::copy_tokenizer("byte_bpe", folder);
  return test::open_model(content, folder);
}

Options options_of(std::vector<Fold> folds) {
  Options options;
  options.folds = std::move(folds);
  options.seed = 7;
  options.format = {2, 32};
  return options;
}

class FoldGolden : public testing::TestWithParam<const char*> {
 protected:
  /// Logits of the folded model are those of the original.
  void expect_same_function(const std::vector<Fold>& folds) {
    SCOPED_TRACE(folds.size() == 1 ? fold_name(folds.front()) : "all");
    const fs::path out = folder_.path() / "folded";
    const Status written = fold_checkpoint(model_, batch_, options_of(folds), out, nullptr);
    ASSERT_TRUE(written) << written.error().message;
    const auto folded = model::Model::open(out);
    ASSERT_TRUE(folded) << folded.error().message;
    EXPECT_LE(distance(*folded), 16 * distance_by_rounding());
    EXPECT_TRUE(is_changed(*folded));
  }

  /// The largest difference of logits.
  double distance(const model::Model& other, const model::Pass& pass = {}) const {
    const std::vector<std::int32_t> tokens(batch_.row(0).begin(), batch_.row(0).end());
    const auto expected = test::logits_of(model_, tokens), actual = test::logits_of(other, tokens, pass);
    double worst = 0;
    for (std::size_t row = 0; row < expected.size(); ++row)
      for (std::size_t i = 0; i < expected[row].size(); ++i)
        worst = std::max(worst, std::abs(expected[row][i] - actual[row][i]));
    return worst;
  }

  /// The same where every weight is moved by about as much as a few roundings to f32 move it.
  double distance_by_rounding() {
    std::unordered_map<std::string, mx::array> weights;
    for (const auto& module : model_.modules()) {
      const mx::array weight = model_.dense_weight(module.name).value();
      const mx::array noise = test::random_array(random_, weight.shape(), mx::float32, 4 * test::kF32Epsilon);
      weights.insert_or_assign(module.name, weight * (mx::array(1.0f) + noise));
    }
    return distance(model_, {.weights = &weights});
  }

  bool is_changed(const model::Model& folded) const {
    for (const auto& module : model_.modules()) {
      const Doubles before = test::values(model_.dense_weight(module.name).value());
      const Doubles after = test::values(folded.dense_weight(module.name).value());
      double difference = 0;
      for (std::size_t i = 0; i < before.size(); ++i) difference += std::abs(before[i] - after[i]);
      if (difference > 1e-2 * test::norm(before)) return true;
    }
    return false;
  }

  Random random_{test::seed()};
  test::TemporaryFolder folder_;
  model::Model model_ = uneven_model(GetParam(), folder_.path() / "model", random_);
  calibrate::TokenBatch batch_ = test::random_batch(random_, model_, 4, 24);
};

TEST_P(FoldGolden, KeepsTheFunction) {
  expect_same_function({Fold::r2});
  expect_same_function({Fold::awq});
  if (model_.config().tied_embeddings) {
    const Status refused =
        fold_checkpoint(model_, batch_, options_of({Fold::r1}), folder_.path() / "tied", nullptr);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(test::contains(refused.error().message, "embeddings are tied"));
    EXPECT_TRUE(test::contains(refused.error().message, (folder_.path() / "model").string()));
    EXPECT_FALSE(fs::exists(folder_.path() / "tied"));
    expect_same_function({Fold::r2, Fold::awq});
  } else {
    expect_same_function({Fold::r1});
    expect_same_function({Fold::r1, Fold::r2, Fold::awq});
  }
}

INSTANTIATE_TEST_SUITE_P(Families, FoldGolden,
                         testing::Values("llama", "llama-tied-biased", "mistral-window", "qwen2-tied",
                                         "qwen2-window", "qwen3", "phi3-window", "phi3-longrope-short"),
                         test::golden_name);

TEST(Fold, RotatesAllOfTheStream) {
  Random random(test::seed());
  const test::TemporaryFolder folder;
  const auto model = uneven_model("llama", folder.path() / "model", random);
  ASSERT_TRUE(fold_checkpoint(model, {}, options_of({Fold::r1}), folder.path() / "out", nullptr));
  const auto folded = model::Model::open(folder.path() / "out").value();
  for (const auto& block : folded.weights().blocks) {
    for (const double value : test::values(block.attention_norm)) EXPECT_EQ(value, 1);
    for (const double value : test::values(block.mlp_norm)) EXPECT_EQ(value, 1);
  }
  for (const double value : test::values(folded.weights().final_norm)) EXPECT_EQ(value, 1);
}

TEST(Fold, TellsWhereItCameFrom) {
  Random random(test::seed());
  const test::TemporaryFolder folder;
  const auto model = uneven_model("llama", folder.path() / "model", random);
  const fs::path out = folder.path() / "out";
  ASSERT_TRUE(fold_checkpoint(model, {}, options_of({Fold::r2}), out, nullptr));
  const auto found = read_provenance(out);
  ASSERT_TRUE(found && found->has_value());
  EXPECT_EQ((*found)->source, folder.path() / "model");
  EXPECT_EQ((*found)->source_bytes, model.checkpoint().file_bytes());
  EXPECT_EQ((*found)->folds, "r2");
  EXPECT_FALSE(read_provenance(folder.path() / "model")->has_value());
  ASSERT_TRUE(write_file_atomically(out / kFoldFile, R"({"format":"optiq-fold","version":1})"));
  EXPECT_FALSE(read_provenance(out));
}

TEST(Fold, ReplacesOnlyItsOwnOutput) {
  Random random(test::seed());
  const test::TemporaryFolder folder;
  const auto model = uneven_model("llama", folder.path() / "model", random);
  const Status refused = fold_checkpoint(model, {}, options_of({Fold::r2}), folder.path() / "model", nullptr);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::bad_input);
}

TEST(Fold, NamesAreReadInTheOrderOfApplication) {
  EXPECT_EQ(parse_folds("awq,r1").value(), (std::vector<Fold>{Fold::r1, Fold::awq}));
  EXPECT_EQ(parse_folds("r2").value(), std::vector<Fold>{Fold::r2});
  EXPECT_TRUE(parse_folds("none").value().empty());
  for (const char* bad : {"", "awq,", "awq,awq", "r3", "none,awq"}) {
    const auto result = parse_folds(bad);
    ASSERT_FALSE(result) << bad;
    EXPECT_EQ(result.error().code, ErrorCode::usage);
  }
}

TEST(RandomOrthogonal, IsOrthogonalAndSpreadsOut) {
  Random random(test::seed());
  for (const std::size_t size : {32u, 9u, 96u, 576u}) {
    const Doubles q = test::values(random_orthogonal(static_cast<std::int64_t>(size), random));
    double worst = 0;
    for (std::size_t a = 0; a < size; ++a) {
      for (std::size_t b = 0; b <= a; ++b) {
        double product = 0;
        for (std::size_t i = 0; i < size; ++i) product += q[a * size + i] * q[b * size + i];
        worst = std::max(worst, std::abs(product - (a == b ? 1 : 0)));
      }
    }
    // Entries rounded to f32: each product of rows errs by less than two roundings of unit vectors.
    EXPECT_LE(worst, 2 * test::kF32Epsilon) << size;
    const double power = static_cast<double>(size & (~size + 1));
    EXPECT_LE(test::largest(q), (1 + 1e-6) / std::sqrt(power)) << size;
  }
}

/// Σ tr(ΔW·A·ΔWᵀ) / tr(W·A·Wᵀ) in double, rounding by MLX's quantizer.
double reference_loss(const mx::array& weight, const Doubles& moments, const std::vector<float>& factors,
                      quant::Format format) {
  const std::size_t in = factors.size();
  const mx::array scales(factors.begin(), {static_cast<int>(in)});
  const auto packed = mx::quantize(weight * scales, format.group_size, format.bits);
  const Doubles back =
      test::values(mx::dequantize(packed[0], packed[1], packed[2], format.group_size, format.bits) / scales);
  const Doubles before = test::values(weight);
  double error = 0, whole = 0;
  for (std::size_t row = 0; row * in < before.size(); ++row) {
    for (std::size_t i = 0; i < in; ++i) {
      for (std::size_t j = 0; j < in; ++j) {
        const double a = moments[i * in + j];
        error +=
            (back[row * in + i] - before[row * in + i]) * a * (back[row * in + j] - before[row * in + j]);
        whole += before[row * in + i] * a * before[row * in + j];
      }
    }
  }
  return error / whole;
}

TEST(SearchFactors, LosesLessWhereSomeChannelsAreLoud) {
  Random random(test::seed());
  constexpr int kIn = 64;
  std::vector<float> loudness(kIn), moments(kIn * kIn, 0.0f), energies(kIn);
  for (int i = 0; i < kIn; ++i) loudness[i] = i % 16 == 3 ? 30.0f : 1.0f;
  for (int sample = 0; sample < 256; ++sample) {
    std::vector<float> x(kIn);
    for (int i = 0; i < kIn; ++i) x[i] = loudness[i] * static_cast<float>(random.normal());
    for (int i = 0; i < kIn; ++i)
      for (int j = 0; j < kIn; ++j) moments[i * kIn + j] += x[i] * x[j] / 256;
  }
  for (int i = 0; i < kIn; ++i) energies[i] = moments[i * kIn + i];
  const quant::Gram gram = quant::Gram::make(moments, kIn, "test").value();
  const mx::array weight = test::random_array(random, {48, kIn});
  const Readers readers{{weight}, &gram, energies};
  const Options options = options_of({Fold::awq});
  const auto factors = search_factors(readers, options, DType::f32);
  ASSERT_TRUE(factors) << factors.error().message;
  const std::vector<float> ones(kIn, 1.0f);
  const Doubles exact(moments.begin(), moments.end());
  for (const std::vector<float>& tried : {ones, *factors}) {
    const double expected = reference_loss(weight, exact, tried, options.format);
    EXPECT_NEAR(loss_of(readers, tried, options, DType::f32).value(), expected, 1e-4 * expected);
  }
  EXPECT_LT(reference_loss(weight, exact, *factors, options.format),
            0.8 * reference_loss(weight, exact, ones, options.format));
  EXPECT_GT((*factors)[3], 1.5f * (*factors)[4]);
}

TEST(SearchFactors, LeavesEqualChannelsAlone) {
  Random random(test::seed());
  std::vector<float> moments(64 * 64, 0.0f);
  for (int i = 0; i < 64; ++i) moments[i * 65] = 1;
  const quant::Gram gram = quant::Gram::make(moments, 64, "test").value();
  const Readers readers{{test::random_array(random, {16, 64})}, &gram, std::vector<float>(64, 1.0f)};
  const auto factors = search_factors(readers, options_of({Fold::awq}), DType::f32);
  ASSERT_TRUE(factors);
  for (const float factor : *factors) EXPECT_FLOAT_EQ(factor, 1.0f);
}

}  // namespace
}  // namespace optiq::fold
