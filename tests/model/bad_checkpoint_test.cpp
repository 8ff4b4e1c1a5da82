// Checkpoints that contradict themselves are refused with the tensor, the expectation and what came.
#include <gtest/gtest.h>

#include <cstring>

#include "optiq/model/model.h"
#include "support/contains.h"
#include "support/model_folder.h"

namespace optiq::model {
namespace {

using test::contains;
using test::ModelFolder;

Result<Model> opened(const ModelFolder& folder) {
  const test::TemporaryFolder place;
  folder.write(place.path());
  return Model::open(place.path());
}

/// The message of the refusal.
std::string refusal(const ModelFolder& folder) {
  const auto model = opened(folder);
  if (model) return "accepted";
  EXPECT_EQ(model.error().code, ErrorCode::bad_input);
  return model.error().message;
}

/// A golden model whose every module is 4-bit in groups of 32.
ModelFolder quantized_model() {
  ModelFolder folder = ModelFolder::golden("llama");
  for (const ModuleShape& module : module_shapes(parse_config(folder.config, "llama").value())) {
    const auto packed = mx::quantize(folder.at(module.name + ".weight"), 32, 4);
    folder.set(module.name + ".weight", packed[0]);
    folder.set(module.name + ".scales", packed[1]);
    folder.set(module.name + ".biases", packed[2]);
  }
  folder.config["quantization"] = {{"group_size", 32}, {"bits", 4}};
  return folder;
}

const std::string kDown = "model.layers.1.mlp.down_proj";

TEST(BadCheckpoint, MissingTensorsAreNamed) {
  for (const std::string& name :
       {kDown + ".weight", std::string("model.embed_tokens.weight"), std::string("model.norm.weight"),
        std::string("lm_head.weight"), std::string("model.layers.0.input_layernorm.weight")}) {
    ModelFolder folder = ModelFolder::golden("llama");
    folder.tensors.erase(name);
    EXPECT_TRUE(contains(refusal(folder), name));
  }
  ModelFolder folder = ModelFolder::golden("qwen3");
  folder.tensors.erase("model.layers.1.self_attn.k_norm.weight");
  EXPECT_TRUE(contains(refusal(folder), "model.layers.1.self_attn.k_norm.weight"));
  folder = ModelFolder::golden("qwen2-tied");
  folder.tensors.erase("model.layers.0.self_attn.v_proj.bias");
  EXPECT_TRUE(contains(refusal(folder), "model.layers.0.self_attn.v_proj.bias"));
}

TEST(BadCheckpoint, ShapesThatContradictTheConfiguration) {
  ModelFolder folder = ModelFolder::golden("llama");
  folder.config["intermediate_size"] = 96;
  EXPECT_TRUE(
      contains(refusal(folder),
               "tensor model.layers.0.mlp.gate_proj.weight: config.json expects the shape [96, 32], the file "
               "has [64, 32]"));
  folder = ModelFolder::golden("llama");
  folder.config["num_hidden_layers"] = 3;
  EXPECT_TRUE(contains(refusal(folder), "model.layers.2."));
  folder = ModelFolder::golden("llama");
  folder.set("model.norm.weight", mx::ones({33}));
  EXPECT_TRUE(contains(refusal(folder),
                       "tensor model.norm.weight: config.json expects the shape [32], the file has [33]"));
}

TEST(BadCheckpoint, DtypesThatCannotBeWeights) {
  for (const mx::Dtype dtype : {mx::int32, mx::uint32, mx::uint8, mx::int64}) {
    ModelFolder folder = ModelFolder::golden("llama");
    folder.set(kDown + ".weight", mx::astype(folder.at(kDown + ".weight"), dtype));
    EXPECT_TRUE(contains(refusal(folder), "tensor " + kDown + ".weight: expected"));
  }
}

TEST(BadCheckpoint, BiasesThatTheConfigurationDenies) {
  ModelFolder folder = ModelFolder::golden("llama");
  folder.set("model.layers.0.self_attn.o_proj.bias", mx::ones({32}));
  EXPECT_TRUE(contains(refusal(folder), "tensor model.layers.0.self_attn.o_proj.bias: the file has it"));
}

TEST(BadCheckpoint, ForeignTensorsAreListed) {
  ModelFolder folder = ModelFolder::golden("qwen2-tied");
  folder.set("model.layers.0.self_attn.rotary_emb.inv_freq", mx::ones({4}));
  folder.set("lm_head.weight", mx::ones({64, 32}));
  const auto model = opened(folder);
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model->unused_tensors(),
            (std::vector<std::string>{"lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"}));
}

TEST(BadCheckpoint, HostileConfigurations) {
  const std::pair<const char*, Json> cases[] = {{"num_hidden_layers", 1000000000},
                                                {"vocab_size", 0},
                                                {"model_type", "mamba"},
                                                {"rms_norm_eps", "NaN"},
                                                {"hidden_size", -1}};
  for (const auto& [key, value] : cases) {
    ModelFolder folder = ModelFolder::golden("llama");
    folder.config[key] = value;
    const std::string message = refusal(folder);
    EXPECT_TRUE(contains(message, key));
    EXPECT_TRUE(contains(message, "config.json"));
  }
}

TEST(BadCheckpoint, NaNLiteralsAreNoJson) {
  const test::TemporaryFolder place;
  ModelFolder folder = ModelFolder::golden("llama");
  folder.write(place.path());
  std::string text = folder.config.dump();
  const std::string key = "\"rms_norm_eps\":";
  text.insert(text.find(key) + key.size(), "NaN,\"x\":");
  ASSERT_TRUE(write_file_atomically(place.path() / "config.json", text));
  const auto model = Model::open(place.path());
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().code, ErrorCode::bad_input);
}

TEST(BadQuantizedCheckpoint, TheWholeOneIsAccepted) {
  const auto model = opened(quantized_model());
  EXPECT_TRUE(model) << model.error().message;
}

TEST(BadQuantizedCheckpoint, MissingScalesOrBiasesAreNamed) {
  for (const char* part : {".scales", ".biases"}) {
    ModelFolder folder = quantized_model();
    folder.tensors.erase(kDown + part);
    EXPECT_TRUE(contains(refusal(folder), kDown + part));
  }
}

TEST(BadQuantizedCheckpoint, FormatsThatContradictTheTensors) {
  ModelFolder folder = quantized_model();
  folder.config["quantization"][kDown] = {{"group_size", 32}, {"bits", 3}};
  EXPECT_TRUE(
      contains(refusal(folder),
               "tensor " + kDown + ".weight: config.json expects the shape [32, 6], the file has [32, 8]"));
  folder.config["quantization"][kDown] = {{"group_size", 64}, {"bits", 4}};
  EXPECT_TRUE(
      contains(refusal(folder), "tensor " + kDown + ".scales: config.json expects the shape [32, 1]"));
  folder.config["quantization"][kDown] = {{"group_size", 128}, {"bits", 4}};
  EXPECT_TRUE(contains(refusal(folder), kDown));
  folder.config["quantization"][kDown] = false;
  EXPECT_TRUE(contains(refusal(folder), kDown + ".weight"));
  folder = quantized_model();
  folder.config.erase("quantization");
  EXPECT_TRUE(contains(refusal(folder), "model.embed_tokens.weight"));
}

TEST(BadQuantizedCheckpoint, ListedModulesMustBeQuantized) {
  ModelFolder folder = ModelFolder::golden("llama");
  folder.config["quantization"] = {{"group_size", 32}, {"bits", 4}};
  folder.config["quantization"][kDown] = {{"group_size", 32}, {"bits", 4}};
  EXPECT_TRUE(contains(refusal(folder), kDown + ".weight"));
}

TEST(BadQuantizedCheckpoint, DtypesOfTheThreeTensors) {
  ModelFolder folder = quantized_model();
  folder.set(kDown + ".biases", mx::astype(folder.at(kDown + ".biases"), mx::float32));
  EXPECT_TRUE(contains(refusal(folder), "tensor " + kDown + ".biases: expected the dtype of the scales"));
  folder = quantized_model();
  folder.set(kDown + ".weight", mx::astype(folder.at(kDown + ".weight"), mx::float32));
  EXPECT_TRUE(
      contains(refusal(folder), "tensor " + kDown + ".weight: expected U32 (4x32), the file has F32"));
}

/// Pads the header so that the data begins at `remainder` beyond a multiple of 8.
void shift_data(const std::filesystem::path& file, std::uint64_t remainder) {
  const MappedFile mapped = MappedFile::open(file).value();
  std::string bytes(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.bytes().size());
  std::uint64_t header = 0;
  std::memcpy(&header, mapped.bytes().data(), sizeof header);
  const std::uint64_t padding = (remainder + 16 - header % 8) % 8;
  bytes.insert(sizeof header + header, padding, ' ');
  header += padding;
  std::memcpy(bytes.data(), &header, sizeof header);
  ASSERT_TRUE(write_file_atomically(file, bytes));
}

/// MLX does not align the data of the files it writes: weights that lie askew are copied, not read in place.
TEST(Alignment, MisalignedTensorsGiveTheSameLogits) {
  const mx::array tokens = mx::array({1, 2, 3}, {1, 3});
  for (const ModelFolder& folder : {ModelFolder::golden("llama"), quantized_model()}) {
    const test::TemporaryFolder place;
    folder.write(place.path());
    std::vector<mx::array> logits;
    for (const std::uint64_t remainder : {0u, 1u, 2u}) {
      shift_data(place.path() / "model.safetensors", remainder);
      const Model model = Model::open(place.path()).value();
      const io::TensorView* view = model.checkpoint().find("lm_head.weight");
      ASSERT_EQ(reinterpret_cast<std::uintptr_t>(view->bytes.data()) % 4, remainder);
      logits.push_back(model.forward(tokens));
      ASSERT_TRUE(evaluate({logits.back()}));
    }
    EXPECT_TRUE(mx::array_equal(logits[1], logits[0]).item<bool>());
    EXPECT_TRUE(mx::array_equal(logits[2], logits[0]).item<bool>());
  }
}

}  // namespace
}  // namespace optiq::model
