// Encoding by gptq: block by block behind a pass over the calibration tokens.
#include <gtest/gtest.h>

#include "optiq/encode/encode.h"
#include "optiq/quant/encoder.h"
#include "support/arrays.h"
#include "support/contains.h"
#include "support/file_size_limit.h"
#include "support/golden_plan.h"
#include "support/model_folder.h"
#include "support/random_batch.h"
#include "support/seed.h"
#include "support/temporary_folder.h"

namespace optiq::encode {
namespace {

namespace fs = std::filesystem;
namespace mx = model::mx;
using test::Doubles;

class EncodeGptq : public testing::TestWithParam<const char*> {
 protected:
  /// Inputs of every module under `model`, all tokens of the batch.
  std::map<std::string, Doubles> inputs_of(const model::Model& model) const {
    std::map<std::string, Doubles> inputs;
    for (std::int64_t i = 0; i < batch_.sequences; ++i) {
      std::vector<std::pair<std::string, mx::array>> taps;
      model::Pass pass;
      pass.tap = [&](const std::string& module, const mx::array& input) { taps.emplace_back(module, input); };
      test::values(model.forward(batch_.array(i), pass));
      for (const auto& [module, input] : taps) {
        const Doubles values = test::values(input);
        inputs[module].insert(inputs[module].end(), values.begin(), values.end());
      }
    }
    return inputs;
  }

  /// The weight that MLX reads back, in f32.
  static mx::array stored_weight(const model::Model& encoded, const std::string& module) {
    const auto tensors =
        mx::load_safetensors((encoded.checkpoint().folder() / "model.safetensors").string()).first;
    const quant::Format format = encoded.format(module);
    const auto f32 = [&](const char* name) { return mx::astype(tensors.at(module + name), mx::float32); };
    return mx::dequantize(tensors.at(module + ".weight"), f32(".scales"), f32(".biases"), format.group_size,
                          format.bits);
  }

  /// Σ over modules of ‖(W − Ŵ)·x‖², relative to ‖W·x‖², on the inputs of the encoded model itself.
  double output_error(const fs::path& folder) const {
    const auto encoded = model::Model::open(folder).value();
    double total = 0;
    for (const auto& [module, x] : inputs_of(encoded)) {
      const auto in = static_cast<std::size_t>(
          std::ranges::find(encoded.modules(), module, &model::ModuleShape::name)->in_features);
      const mx::array rows(std::vector<float>(x.begin(), x.end()).data(),
                           {static_cast<int>(x.size() / in), static_cast<int>(in)}, mx::float32);
      const mx::array exact =
          mx::matmul(rows, mx::transpose(mx::astype(reference_.dense_weight(module).value(), mx::float32)));
      const Doubles y = test::values(exact);
      const Doubles approximate =
          test::values(mx::matmul(rows, mx::transpose(stored_weight(encoded, module))));
      double error = 0;
      for (std::size_t i = 0; i < y.size(); ++i) error += (y[i] - approximate[i]) * (y[i] - approximate[i]);
      total += error / (test::norm(y) * test::norm(y));
    }
    return total;
  }

  void encode_by(quant::Encoder encoder, const fs::path& out, const calibrate::TokenBatch& tokens) const {
    const Status status = encode_checkpoint(reference_.checkpoint(),
                                            test::plan_of(reference_, {3, 32}, encoder), {{}, tokens}, out);
    ASSERT_TRUE(status) << status.error().message;
    ASSERT_TRUE(verify_checkpoint(out));
  }

  Random random_{test::seed()};
  model::Model reference_ = model::Model::open(test::golden_folder(GetParam())).value();
  calibrate::TokenBatch batch_ = test::random_batch(random_, reference_, 8, 32);
  test::TemporaryFolder folder_;
};

TEST_P(EncodeGptq, LowersTheErrorOfEveryOutput) {
  encode_by(quant::Encoder::gptq, folder_.path() / "gptq", batch_);
  encode_by(quant::Encoder::range, folder_.path() / "range", batch_);
  EXPECT_LT(output_error(folder_.path() / "gptq"), 0.8 * output_error(folder_.path() / "range"));
}

TEST_P(EncodeGptq, DependsOnTheTokensAloneAndGivesTheSameBytesAgain) {
  const auto weights = [&](const char* name) {
    return read_text_file(folder_.path() / name / "model.safetensors").value();
  };
  encode_by(quant::Encoder::gptq, folder_.path() / "a", batch_);
  encode_by(quant::Encoder::gptq, folder_.path() / "b", batch_);
  encode_by(quant::Encoder::gptq, folder_.path() / "c", test::random_batch(random_, reference_, 8, 32));
  EXPECT_EQ(weights("a"), weights("b"));
  EXPECT_NE(weights("a"), weights("c"));
}

TEST_P(EncodeGptq, WeighsTokensWhereTheProfileDid) {
  const plan::Plan plan = test::plan_of(reference_, {3, 32}, quant::Encoder::gptq);
  const std::string module = "model.layers.1.mlp.down_proj";
  const auto weight_of = [&](const char* name, const profile::TokenWeights& weights) {
    const Status status =
        encode_checkpoint(reference_.checkpoint(), plan, {{}, batch_, weights}, folder_.path() / name);
    EXPECT_TRUE(status) << status.error().message;
    return test::values(stored_weight(model::Model::open(folder_.path() / name).value(), module));
  };
  profile::TokenWeights weights;
  for (std::size_t i = 0; i < batch_.ids.size(); ++i)
    weights[module].push_back(static_cast<float>(std::exp(2 * random_.normal())));
  const profile::TokenWeights ones{{module, std::vector<float>(batch_.ids.size(), 1.0f)}};
  const Doubles plain = weight_of("plain", {});
  EXPECT_EQ(weight_of("ones", ones), plain);
  EXPECT_NE(weight_of("weighed", weights), plain);
}

/// The blocks in front of the one that is gone on with are read back: the others are measured behind them.
TEST_P(EncodeGptq, GoesOnWhereAFullDiskStoppedIt) {
  encode_by(quant::Encoder::gptq, folder_.path() / "whole", batch_);
  const plan::Plan plan = test::plan_of(reference_, {3, 32}, quant::Encoder::gptq);
  const fs::path out = folder_.path() / "out";
  const auto size = fs::file_size(folder_.path() / "whole" / "model.safetensors");
  for (const double part : {0.5, 0.7, 0.95}) {
    const auto bytes = static_cast<rlim_t>(part * static_cast<double>(size));
    const test::FileSizeLimit limit(bytes);
    const Status status =
        encode_checkpoint(reference_.checkpoint(), plan, {{}, batch_}, out, {.record_seconds = 0});
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, ErrorCode::out_of_resources) << status.error().message;
    EXPECT_FALSE(fs::exists(out));
    EXPECT_GT(fs::file_size(folder_.path() / ".out.partial" / "model.safetensors"), bytes * 9 / 10);
  }
  encode_by(quant::Encoder::gptq, out, batch_);
  for (const char* file : {"model.safetensors", "config.json", "optiq.json"})
    EXPECT_EQ(read_text_file(out / file).value(), read_text_file(folder_.path() / "whole" / file).value());
}

TEST_P(EncodeGptq, NeedsTokens) {
  const Status status =
      encode_checkpoint(reference_.checkpoint(), test::plan_of(reference_, {3, 32}, quant::Encoder::gptq), {},
                        folder_.path() / "x");
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::bad_input);
  EXPECT_TRUE(test::contains(status.error().message, "expected the calibration tokens"));
  EXPECT_FALSE(fs::exists(folder_.path() / "x"));
}

INSTANTIATE_TEST_SUITE_P(Golden, EncodeGptq, testing::Values("llama", "qwen2-tied"), test::golden_name);

}  // namespace
}  // namespace optiq::encode
