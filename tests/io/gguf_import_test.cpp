#include "optiq/io/gguf_import.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <numbers>
#include <random>

#include "optiq/base/half.h"
#include "optiq/io/checkpoint.h"
#include "optiq/io/tokenizer.h"
#include "support/contains.h"
#include "support/reference_model.h"
#include "support/temporary_folder.h"
#include "support/tiny_gguf.h"

namespace optiq::io {
namespace {

namespace fs = std::filesystem;
using test::contains;
using test::TinyGguf;

struct Import : testing::Test {
  test::TemporaryFolder folder;
  Random random{std::random_device{}()};

  fs::path write(const std::vector<std::byte>& bytes) {
    const fs::path path = folder.path() / "model.gguf";
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return path;
  }
  fs::path out() const { return folder.path() / "out"; }

  Result<Checkpoint> import(const TinyGguf& model, DType dtype) {
    OPTIQ_CHECK(import_gguf(write(model.builder.build()), out(), {.dtype = dtype, .progress = {}}));
    return Checkpoint::open(out());
  }
  Result<GgufImportPlan> plan(const TinyGguf& model) {
    bytes_ = model.builder.build();
    OPTIQ_TRY(file_, GgufFile::parse(bytes_, "tiny.gguf"));
    return plan_gguf_import(file_, DType::f32);
  }
  std::string refusal(const TinyGguf& model) {
    const auto result = plan(model);
    if (result) return "accepted";
    EXPECT_EQ(result.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(contains(result.error().message, "tiny.gguf"));
    return result.error().message;
  }
  TinyGguf tiny(TinyGguf model = {}) {
    model.add_metadata().add_tensors(random);
    return model;
  }

 private:
  std::vector<std::byte> bytes_;
  GgufFile file_;
};

float stored_value(const TensorView& tensor, std::size_t i) {
  const std::byte* at = tensor.bytes.data() + i * dtype_bytes(tensor.dtype);
  if (tensor.dtype == DType::f32) {
    float value = 0;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  std::uint16_t bits = 0;
  std::memcpy(&bits, at, sizeof bits);
  return tensor.dtype == DType::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

float rounded(float value, DType dtype) {
  if (dtype == DType::f16) return f16_to_f32(f32_to_f16(value));
  return dtype == DType::bf16 ? bf16_to_f32(f32_to_bf16(value)) : value;
}

void expect_weights(const Checkpoint& checkpoint, const TinyGguf& model, DType dtype) {
  EXPECT_EQ(checkpoint.tensors().size(), model.expected.size());
  for (const auto& [name, values] : model.expected) {
    const TensorView* tensor = checkpoint.find(name);
    ASSERT_NE(tensor, nullptr) << name;
    ASSERT_EQ(tensor->dtype, dtype) << name;
    ASSERT_EQ(static_cast<std::size_t>(tensor->elements()), values.size()) << name;
    for (std::size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(stored_value(*tensor, i), rounded(values[i], dtype)) << name << " element " << i;
  }
}

TEST_F(Import, EveryArchitectureInEveryDtype) {
  for (const char* architecture : {"llama", "qwen2", "qwen3", "phi3"}) {
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      const TinyGguf model =
          tiny({.architecture = architecture, .biases = std::string_view(architecture) == "qwen2"});
      const auto checkpoint = import(model, dtype);
      ASSERT_TRUE(checkpoint) << architecture << ": " << checkpoint.error().message;
      expect_weights(*checkpoint, model, dtype);
      EXPECT_EQ(checkpoint->config()["model_type"], architecture);
    }
  }
}

TEST_F(Import, BiasesOfALlamaAreReorderedToo) {
  const TinyGguf model = tiny({.biases = true});
  const auto checkpoint = import(model, DType::f32);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  expect_weights(*checkpoint, model, DType::f32);
  EXPECT_EQ(checkpoint->config()["attention_bias"], true);
  EXPECT_EQ(checkpoint->config()["mlp_bias"], true);
}

TEST_F(Import, QuantizedRowsAreReorderedWhole) {
  // q of layer 0 is Q8_0 with scale 1, so that it holds whole numbers.
  test::Bytes blocks;
  std::vector<std::vector<float>> rows(16, std::vector<float>(32));
  for (std::vector<float>& row : rows) {
    blocks.put(f32_to_f16(1.0f));
    for (float& value : row) {
      const auto q = static_cast<std::int8_t>(static_cast<int>(random.below(256)) - 128);
      blocks.put(q);
      value = q;
    }
  }
  TinyGguf mixed{.layers = 1, .hidden = 32, .intermediate = 32, .head_dim = 4};
  mixed.add_metadata();
  mixed.replaced = {{"blk.0.attn_q.weight", {GgufTensorType::q8_0, blocks.bytes()}}};
  mixed.add_tensors(random);
  const auto checkpoint = import(mixed, DType::f32);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  const TensorView* q = checkpoint->find("model.layers.0.self_attn.q_proj.weight");
  // Of a head's four rows in the file, the even ones come first.
  const std::size_t order[] = {0, 2, 1, 3};
  for (std::size_t row = 0; row < 16; ++row) {
    for (std::size_t i = 0; i < 32; ++i)
      ASSERT_EQ(stored_value(*q, row * 32 + i), rows[row / 4 * 4 + order[row % 4]][i]) << row << ", " << i;
  }
}

TEST_F(Import, ConfigHoldsWhatTheMetadataSays) {
  const auto result = plan(tiny());
  ASSERT_TRUE(result) << result.error().message;
  const Json expected = Json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 12, "hidden_size": 12,
    "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "max_position_embeddings": 64, "hidden_act": "silu", "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0, "tie_word_embeddings": false, "attention_bias": false, "mlp_bias": false,
    "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "float32"})");
  EXPECT_EQ(result->config, expected) << result->config.dump(2);
}

TEST_F(Import, GenerationStopsAtTheEndOfATurnToo) {
  TinyGguf model;
  EXPECT_EQ(plan(tiny(model))->generation_config["eos_token_id"], 1);
  model.builder.u32("tokenizer.ggml.eot_token_id", 2);
  EXPECT_EQ(plan(tiny(model))->generation_config["eos_token_id"], Json::parse("[1, 2]"));
}

TEST_F(Import, TheFolderHoldsATokenizer) {
  ASSERT_TRUE(import(tiny(), DType::bf16));
  const auto tokenizer = Tokenizer::open(out());
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->encode("badj", false).value(), (std::vector<std::int32_t>{3, 2, 5, 11}));
  EXPECT_EQ(tokenizer->bos_token(), 0);
  EXPECT_EQ(tokenizer->eos_tokens(), std::vector<std::int32_t>{1});
}

TEST_F(Import, TiedEmbeddingsAndWindow) {
  TinyGguf model{.tied = true};
  model.builder.u32("llama.attention.sliding_window", 32);
  const auto result = plan(tiny(model));
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->config["tie_word_embeddings"], true);
  EXPECT_EQ(result->config["model_type"], "mistral");
  EXPECT_EQ(result->config["architectures"][0], "MistralForCausalLM");
  EXPECT_EQ(result->config["sliding_window"], 32);
}

/// The factors that llama.cpp's converter writes for a "llama3" scaling, computed as it does: by wavelength.
std::vector<float> llama3_factors(double theta, int dimension, double factor, double context) {
  std::vector<float> factors;
  for (int i = 0; i < dimension; i += 2) {
    const double wavelength = 2 * std::numbers::pi * std::pow(theta, static_cast<double>(i) / dimension);
    const double smooth = (context / wavelength - 1) / 3;
    double own = 1 / ((1 - smooth) / factor + smooth);
    if (wavelength < context / 4) own = 1;
    if (wavelength > context) own = factor;
    factors.push_back(static_cast<float>(own));
  }
  return factors;
}

TEST_F(Import, RopeFactorsBecomeALlama3Scaling) {
  TinyGguf model{.layers = 1, .head_dim = 64};
  model.builder.tensor("rope_freqs.weight", {32}, llama3_factors(500000, 64, 32, 8192));
  const auto result = plan(tiny(model));
  ASSERT_TRUE(result) << result.error().message;
  const Json expected = Json::parse(R"({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192})");
  EXPECT_EQ(result->config["rope_scaling"], expected) << result->config.dump();
  EXPECT_EQ(result->tensors.size(), model.layers * 9u + 3u);
}

TEST_F(Import, OtherRopeFactorsAreRefused) {
  std::vector<float> factors = llama3_factors(500000, 64, 8, 8192);
  factors[20] *= 1.01f;
  TinyGguf model{.head_dim = 64};
  model.builder.tensor("rope_freqs.weight", {32}, factors);
  EXPECT_TRUE(contains(refusal(tiny(model)), "rope_freqs.weight"));
  TinyGguf nan{.head_dim = 64};
  nan.builder.tensor("rope_freqs.weight", {32}, std::vector<float>(32, std::nanf("")));
  EXPECT_TRUE(contains(refusal(tiny(nan)), "positive factors"));
  TinyGguf ones{.head_dim = 64};
  ones.builder.tensor("rope_freqs.weight", {32}, std::vector<float>(32, 1.0f));
  const auto unscaled = plan(tiny(ones));
  ASSERT_TRUE(unscaled) << unscaled.error().message;
  EXPECT_FALSE(unscaled->config.contains("rope_scaling"));
}

TEST_F(Import, RopeScalingKeys) {
  TinyGguf yarn{.architecture = "qwen2", .biases = true};
  yarn.builder.string("qwen2.rope.scaling.type", "yarn")
      .f32("qwen2.rope.scaling.factor", 4)
      .u32("qwen2.rope.scaling.original_context_length", 16);
  const auto result = plan(tiny(yarn));
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->config["rope_scaling"],
            Json::parse(R"({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16})"));
  TinyGguf tuned = yarn;
  tuned.builder.f32("qwen2.rope.scaling.yarn_beta_fast", 16);
  EXPECT_TRUE(contains(refusal(tiny(tuned)), "yarn"));
  TinyGguf linear;
  linear.builder.string("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 2.5f);
  EXPECT_EQ(plan(tiny(linear))->config["rope_scaling"],
            Json::parse(R"({"rope_type": "linear", "factor": 2.5})"));
  TinyGguf other;
  other.builder.string("llama.rope.scaling.type", "ntk").f32("llama.rope.scaling.factor", 2);
  EXPECT_TRUE(contains(refusal(tiny(other)), "\"ntk\""));
}

TEST_F(Import, LongRopeOfPhi3) {
  TinyGguf model{.architecture = "phi3"};
  model.builder.u32("phi3.rope.dimension_count", 6)
      .u32("phi3.rope.scaling.original_context_length", 16)
      .f32("phi3.rope.scaling.attn_factor", static_cast<float>(std::sqrt(1 + std::log(4.0) / std::log(16.0))))
      .tensor("rope_factors_long.weight", {3}, {1, 2.5f, 10.1f})
      .tensor("rope_factors_short.weight", {3}, {1, 1.1f, 1.5f});
  const auto result = plan(tiny(model));
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->config["rope_scaling"],
            Json::parse(
                R"({"type": "longrope", "long_factor": [1.0, 2.5, 10.1], "short_factor": [1.0, 1.1, 1.5]})"));
  EXPECT_EQ(result->config["original_max_position_embeddings"], 16);
  EXPECT_EQ(result->config["partial_rotary_factor"], 0.75);
}

TEST_F(Import, RefusesFilesThatAreNoWholeDenseModel) {
  TinyGguf other{.architecture = "gemma"};
  EXPECT_TRUE(contains(refusal(tiny(other)), "gemma"));
  TinyGguf adapter;
  adapter.builder.string("general.type", "adapter");
  EXPECT_TRUE(contains(refusal(tiny(adapter)), "adapter"));
  TinyGguf piece;
  piece.builder.scalar<std::uint16_t>("split.count", GgufValueType::u16, 3);
  EXPECT_TRUE(contains(refusal(tiny(piece)), "3 pieces"));
  TinyGguf experts;
  experts.builder.u32("llama.expert_count", 8);
  EXPECT_TRUE(contains(refusal(tiny(experts)), "8 experts"));
}

TEST_F(Import, RefusesWhatContradictsItself) {
  TinyGguf fewer = tiny();
  fewer.builder = {};
  fewer.kv_heads = 3;
  EXPECT_TRUE(contains(refusal(fewer.add_metadata()), "multiple of head_count_kv 3"));
  TinyGguf stray = tiny();
  stray.builder.tensor("blk.0.attn_sinks.weight", {1}, {1});
  EXPECT_TRUE(contains(refusal(stray), "attn_sinks"));
  TinyGguf missing;
  missing.add_metadata();
  EXPECT_TRUE(contains(refusal(missing), "token_embd.weight"));
  TinyGguf shape{.layers = 1};
  shape.add_metadata();
  shape.hidden = 16;
  EXPECT_TRUE(contains(refusal(shape.add_tensors(random)), "expected shape [12, 12], got [12, 16]"));
  TinyGguf token;
  token.builder.u32("tokenizer.ggml.padding_token_id", 12);
  EXPECT_TRUE(contains(refusal(tiny(token)), "below 12, got 12"));
  TinyGguf type{.layers = 1, .hidden = 256, .intermediate = 256};
  type.replaced = {
      {"blk.0.ffn_up.weight", {static_cast<GgufTensorType>(23), std::vector<std::byte>(256 * 136)}}};
  EXPECT_TRUE(contains(refusal(tiny(type)), "IQ4_XS cannot be imported"));
}

TEST_F(Import, RefusesWeightsThatAreNoNumbers) {
  for (const auto& [value, dtype] : {std::pair{std::nanf(""), DType::f32}, std::pair{INFINITY, DType::bf16},
                                     std::pair{70000.0f, DType::f16}, std::pair{3.4e38f, DType::bf16}}) {
    TinyGguf model{.layers = 1};
    std::vector<float> norm(12, 1.0f);
    norm[7] = value;
    test::Bytes bytes;
    for (const float x : norm) bytes.put(x);
    model.replaced = {{"blk.0.ffn_norm.weight", {GgufTensorType::f32, bytes.bytes()}}};
    const auto result = import(tiny(model), dtype);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(contains(result.error().message, "blk.0.ffn_norm.weight"));
    EXPECT_TRUE(contains(result.error().message, "column 7"));
    EXPECT_FALSE(fs::exists(out()));
  }
}

// config.json of the model's authors, which transformers 5 wrote: other names for two of the fields.
TEST_F(Import, TheRealModelsConfigIsItsAuthors) {
  const auto gguf = test::reference_gguf(), data = test::evaluation_data();
  OPTIQ_SKIP_WITHOUT_REFERENCE(gguf);
  OPTIQ_SKIP_WITHOUT_DATA(data);
  const auto file = GgufFile::open(*gguf);
  ASSERT_TRUE(file) << file.error().message;
  const auto result = plan_gguf_import(*file, DType::f32);
  ASSERT_TRUE(result) << result.error().message;
  auto authors = read_json_file(*data / "smollm2" / "config.json");
  ASSERT_TRUE(authors) << authors.error().message;
  const Json own = result->config;
  EXPECT_EQ(own["rope_theta"], (*authors)["rope_parameters"]["rope_theta"]);
  EXPECT_EQ((*authors)["rope_parameters"]["rope_type"], "default");
  EXPECT_FALSE(own.contains("rope_scaling"));
  EXPECT_EQ(own["torch_dtype"], (*authors)["dtype"]);
  for (const char* key : {"architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size",
                          "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
                          "max_position_embeddings", "hidden_act", "rms_norm_eps", "tie_word_embeddings",
                          "attention_bias", "mlp_bias", "bos_token_id", "eos_token_id", "pad_token_id"})
    EXPECT_EQ(own.at(key), authors->at(key)) << key;
}

// The authors' own files, as far as they decide what is computed.
TEST_F(Import, TheRealModelsTokenizerIsItsAuthors) {
  const auto gguf = test::reference_gguf(), data = test::evaluation_data();
  OPTIQ_SKIP_WITHOUT_REFERENCE(gguf);
  OPTIQ_SKIP_WITHOUT_DATA(data);
  const Status imported = import_gguf(*gguf, out(), {.dtype = DType::bf16, .progress = {}});
  ASSERT_TRUE(imported) << imported.error().message;
  const fs::path authors = *data / "smollm2";
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
    EXPECT_EQ(read_json_file(out() / "generation_config.json").value().at(key),
              read_json_file(authors / "generation_config.json").value().at(key));
  }
  for (const char* key : {"bos_token", "eos_token", "pad_token", "unk_token"}) {
    EXPECT_EQ(read_json_file(out() / "tokenizer_config.json").value().at(key),
              read_json_file(authors / "tokenizer_config.json").value().at(key));
  }
  const auto own = Tokenizer::open(out()), other = Tokenizer::open(authors);
  ASSERT_TRUE(own && other);
  EXPECT_EQ(own->vocabulary_size(), other->vocabulary_size());
  EXPECT_TRUE(own->has_chat_template());
  const char* text =
      "The  quick brown fox\n\tjumps over 12345 \u00e9\u00e8 \u4f60\u597d! <|im_start|>user\nhi<|im_end|>";
  EXPECT_EQ(own->encode(text, true).value(), other->encode(text, true).value());
}

TEST_F(Import, RefusesADtypeThatHoldsNoWeights) {
  const auto result = import(tiny(), DType::i32);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::usage);
}

}  // namespace
}  // namespace optiq::io
