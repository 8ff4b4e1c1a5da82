#include "optiq/model/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "support/contains.h"

namespace optiq::model {
namespace {

using test::contains;

Json small_config(const char* family = "llama") {
  return {{"model_type", family},     {"vocab_size", 96},       {"hidden_size", 64},
          {"intermediate_size", 160}, {"num_hidden_layers", 4}, {"num_attention_heads", 4},
          {"num_key_value_heads", 2}, {"rms_norm_eps", 1e-6},   {"max_position_embeddings", 4096},
          {"rope_theta", 500000.0},   {"sliding_window", 100},  {"tie_word_embeddings", false}};
}

ModelConfig parsed(const Json& json) {
  auto config = parse_config(json, "config.json");
  EXPECT_TRUE(config) << config.error().message;
  return std::move(config).value();
}

std::string refusal(const Json& json) {
  const auto config = parse_config(json, "config.json");
  if (config) return "accepted";
  EXPECT_EQ(config.error().code, ErrorCode::bad_input);
  EXPECT_TRUE(contains(config.error().message, "config.json"));
  return config.error().message;
}

TEST(Config, ReadsEverySize) {
  const ModelConfig config = parsed(small_config());
  EXPECT_EQ(config.family->model_type, "llama");
  EXPECT_EQ(config.vocabulary, 96);
  EXPECT_EQ(config.hidden, 64);
  EXPECT_EQ(config.intermediate, 160);
  EXPECT_EQ(config.layers, 4);
  EXPECT_EQ(config.heads, 4);
  EXPECT_EQ(config.kv_heads, 2);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.max_positions, 4096);
  EXPECT_FLOAT_EQ(config.norm_epsilon, 1e-6f);
  EXPECT_FALSE(config.tied_embeddings);
}

TEST(Config, KeyValueHeadsDefaultToHeads) {
  Json json = small_config();
  json.erase("num_key_value_heads");
  EXPECT_EQ(parsed(json).kv_heads, 4);
  json["num_key_value_heads"] = nullptr;
  EXPECT_EQ(parsed(json).kv_heads, 4);
}

TEST(Config, BiasesFollowFamilyAndKeys) {
  Json json = small_config("llama");
  EXPECT_FALSE(parsed(json).attention_bias);
  json["attention_bias"] = true;
  json["mlp_bias"] = true;
  EXPECT_TRUE(parsed(json).attention_bias);
  EXPECT_TRUE(parsed(json).output_bias);
  EXPECT_TRUE(parsed(json).mlp_bias);
  EXPECT_TRUE(parsed(small_config("qwen2")).attention_bias);
  EXPECT_FALSE(parsed(small_config("qwen2")).output_bias);
}

TEST(Config, SlidingWindowFollowsTheFamily) {
  EXPECT_EQ(parsed(small_config("llama")).sliding_window, 0);
  EXPECT_EQ(parsed(small_config("mistral")).sliding_window, 100);
  EXPECT_EQ(parsed(small_config("phi3")).sliding_window, 100);
  EXPECT_EQ(parsed(small_config("qwen2")).sliding_window, 0);
  Json json = small_config("qwen2");
  json["use_sliding_window"] = true;
  json["max_window_layers"] = 3;
  EXPECT_EQ(parsed(json).window(2), 0);
  EXPECT_EQ(parsed(json).window(3), 100);
  json["layer_types"] = {"full_attention", "sliding_attention", "sliding_attention", "sliding_attention"};
  EXPECT_EQ(parsed(json).window(0), 0);
  EXPECT_EQ(parsed(json).window(1), 100);
  json["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention", "sliding_attention"};
  EXPECT_TRUE(contains(refusal(json), "\"layer_types\": expected 4 entries"));
}

TEST(Config, RefusesUnknownFamilies) {
  EXPECT_TRUE(contains(refusal(small_config("mamba")),
                       "\"model_type\": expected one of llama, mistral, qwen2, qwen3, phi3; got \"mamba\""));
  Json json = small_config();
  json.erase("model_type");
  EXPECT_TRUE(contains(refusal(json), "\"model_type\""));
  EXPECT_FALSE(parse_config(Json::array(), "config.json"));
}

TEST(Config, RefusesMissingAbsurdAndContradictoryValues) {
  struct Case {
    const char* key;
    Json value;
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Case cases[] = {{"vocab_size", 0},
                        {"vocab_size", -1},
                        {"vocab_size", 1ll << 40},
                        {"vocab_size", "96"},
                        {"hidden_size", 0},
                        {"hidden_size", 66},
                        {"intermediate_size", std::numeric_limits<std::int64_t>::max()},
                        {"num_hidden_layers", 1000000000},
                        {"num_hidden_layers", 0},
                        {"num_hidden_layers", 1.5},
                        {"num_attention_heads", 0},
                        {"num_key_value_heads", 3},
                        {"num_key_value_heads", -4},
                        {"head_dim", 15},
                        {"max_position_embeddings", 0},
                        {"rms_norm_eps", nan},
                        {"rms_norm_eps", -1e-5},
                        {"rms_norm_eps", nullptr},
                        {"rope_theta", nan},
                        {"rope_theta", 0},
                        {"rope_theta", 1},
                        {"rope_theta", std::numeric_limits<double>::infinity()},
                        {"partial_rotary_factor", 0},
                        {"partial_rotary_factor", 1.5},
                        {"partial_rotary_factor", 1e300},
                        {"hidden_act", "gelu"},
                        {"tie_word_embeddings", "yes"}};
  for (const Case& c : cases) {
    Json json = small_config();
    json[c.key] = c.value;
    EXPECT_NE(refusal(json), "accepted") << c.key << " = " << c.value.dump();
  }
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "max_position_embeddings", "rms_norm_eps"}) {
    Json json = small_config();
    json.erase(key);
    EXPECT_TRUE(contains(refusal(json), key));
  }
}

/// Position · frequency is what attention sees, so the reference is the definition of each kind, by hand.
double base_frequency(int i) {
  return std::pow(500000.0, -2.0 * i / 16);
}

TEST(Rope, DefaultIsTheDefinition) {
  const Rope rope = parsed(small_config()).rope;
  ASSERT_EQ(rope.inverse_frequencies.size(), 8u);
  for (int i = 0; i < 8; ++i)
    EXPECT_FLOAT_EQ(rope.inverse_frequencies[i], static_cast<float>(base_frequency(i)));
  EXPECT_EQ(rope.magnitude, 1.0f);
}

TEST(Rope, PartialRotationTurnsTheFirstChannels) {
  Json json = small_config();
  json["partial_rotary_factor"] = 0.5;
  const Rope rope = parsed(json).rope;
  ASSERT_EQ(rope.inverse_frequencies.size(), 4u);
  EXPECT_FLOAT_EQ(rope.inverse_frequencies[1], static_cast<float>(std::pow(500000.0, -2.0 / 8)));
}

TEST(Rope, BothSpellingsAgree) {
  Json older = small_config();
  older["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  Json newer = small_config();
  newer.erase("rope_theta");
  newer["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 500000.0}};
  const Rope rope = parsed(older).rope;
  EXPECT_EQ(rope.inverse_frequencies, parsed(newer).rope.inverse_frequencies);
  EXPECT_FLOAT_EQ(rope.inverse_frequencies[3], static_cast<float>(base_frequency(3) / 4));
}

TEST(Rope, Llama3SlowsLongWavesOnly) {
  Json json = small_config();
  json["rope_scaling"] = {{"rope_type", "llama3"},
                          {"factor", 8.0},
                          {"low_freq_factor", 1.0},
                          {"high_freq_factor", 4.0},
                          {"original_max_position_embeddings", 2048}};
  const Rope rope = parsed(json).rope;
  int blended = 0;
  for (int i = 0; i < 8; ++i) {
    const double ratio = rope.inverse_frequencies[i] / base_frequency(i);
    const double wavelength = 2 * std::numbers::pi / base_frequency(i);
    if (wavelength < 2048 / 4.0) {
      EXPECT_NEAR(ratio, 1.0, 1e-6);
    } else if (wavelength > 2048) {
      EXPECT_NEAR(ratio, 1 / 8.0, 1e-6);
    } else {
      const double smooth = (2048 / wavelength - 1) / 3;
      EXPECT_NEAR(ratio, (1 - smooth) / 8 + smooth, 1e-6);
      ++blended;
    }
  }
  EXPECT_GT(blended, 0);
}

TEST(Rope, YarnMagnitudeIsThePapers) {
  Json json = small_config();
  json["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 1024}};
  const Rope rope = parsed(json).rope;
  EXPECT_FLOAT_EQ(rope.magnitude, static_cast<float>(0.1 * std::log(4.0) + 1));
  EXPECT_FLOAT_EQ(rope.inverse_frequencies[0], 1.0f);
  EXPECT_FLOAT_EQ(rope.inverse_frequencies[7], static_cast<float>(base_frequency(7) / 4));
  json["rope_scaling"]["attention_factor"] = 1.25;
  EXPECT_FLOAT_EQ(parsed(json).rope.magnitude, 1.25f);
}

TEST(Rope, LongropeKeepsBothSets) {
  for (const char* name : {"su", "longrope", "yarn"}) {
    Json json = small_config("phi3");
    json["original_max_position_embeddings"] = 1024;
    json["rope_scaling"] = {{"type", name},
                            {"short_factor", {1, 2, 3, 4, 5, 6, 7, 8}},
                            {"long_factor", {2, 4, 6, 8, 10, 12, 14, 16}}};
    const Rope rope = parsed(json).rope;
    EXPECT_FLOAT_EQ(rope.inverse_frequencies[2], static_cast<float>(base_frequency(2) / 3));
    EXPECT_FLOAT_EQ(rope.long_inverse_frequencies[2], static_cast<float>(base_frequency(2) / 6));
    EXPECT_EQ(rope.original_positions, 1024);
    EXPECT_FLOAT_EQ(rope.magnitude, static_cast<float>(std::sqrt(1 + std::log(4.0) / std::log(1024.0))));
  }
}

TEST(Rope, RefusesBrokenScalings) {
  const Json factors = {1, 2, 3, 4, 5, 6, 7, 8};
  const Json cases[] = {
      {{"rope_type", "spiral"}},
      {{"rope_type", 3}},
      {{"rope_type", "linear"}},
      {{"rope_type", "linear"}, {"factor", 0}},
      {{"rope_type", "linear"}, {"factor", "4"}},
      {{"rope_type", "linear"}, {"factor", 1e-300}},
      {{"rope_type", "yarn"}, {"factor", 2}, {"attention_factor", 1e300}},
      {{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 4}},
      {{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 1}},
      {{"rope_type", "yarn"}, {"factor", -1}},
      {{"rope_type", "yarn"}, {"factor", 2}, {"original_max_position_embeddings", 0}},
      {{"rope_type", "longrope"}, {"short_factor", factors}},
      {{"rope_type", "longrope"}, {"short_factor", factors}, {"long_factor", {1, 2}}},
      {{"rope_type", "longrope"}, {"short_factor", factors}, {"long_factor", {1, 2, 3, 4, 5, 6, 7, 0}}},
      {{"rope_type", "longrope"}, {"short_factor", factors}, {"long_factor", {1, 2, 3, 4, 5, 6, 7, "8"}}},
      {{"full_attention", {{"rope_type", "default"}}}}};
  for (const Json& scaling : cases) {
    Json json = small_config();
    json["rope_scaling"] = scaling;
    EXPECT_NE(refusal(json), "accepted") << scaling.dump();
  }
  Json json = small_config();
  json["rope_scaling"] = "linear";
  EXPECT_TRUE(contains(refusal(json), "expected an object"));
}

TEST(Modules, ComeInExecutionOrderWithTheirShapes) {
  const ModelConfig config = parsed(small_config("qwen2"));
  const std::vector<ModuleShape> modules = module_shapes(config);
  ASSERT_EQ(modules.size(), 2u + 4 * 7);
  EXPECT_EQ(modules.front().name, "model.embed_tokens");
  EXPECT_EQ(modules.front().layer, -1);
  EXPECT_EQ(modules[2].name, "model.layers.0.self_attn.k_proj");
  EXPECT_EQ(modules[2].out_features, 32);
  EXPECT_TRUE(modules[2].has_bias);
  EXPECT_EQ(modules[4].name, "model.layers.0.self_attn.o_proj");
  EXPECT_FALSE(modules[4].has_bias);
  EXPECT_EQ(modules[14].name, "model.layers.1.mlp.down_proj");
  EXPECT_EQ(modules[14].in_features, 160);
  EXPECT_EQ(modules[14].layer, 1);
  EXPECT_EQ(modules.back().name, "lm_head");
}

TEST(Modules, FusedFamiliesHaveFusedModulesAndTiedOnesNoHead) {
  Json json = small_config("phi3");
  json["tie_word_embeddings"] = true;
  const std::vector<ModuleShape> modules = module_shapes(parsed(json));
  ASSERT_EQ(modules.size(), 1u + 4 * 4);
  EXPECT_EQ(modules[1].name, "model.layers.0.self_attn.qkv_proj");
  EXPECT_EQ(modules[1].out_features, 64 + 2 * 32);
  EXPECT_EQ(modules[3].name, "model.layers.0.mlp.gate_up_proj");
  EXPECT_EQ(modules[3].out_features, 320);
}

const char* const kQuantized = R"({"quantization": {"group_size": 64, "bits": 4, "mode": "affine",
    "a": {"group_size": 32, "bits": 3}, "b": false, "c": true}})";

TEST(ModuleFormat, OverridesBeatTheTopLevel) {
  const Json json = parse_json(kQuantized, "x").value();
  EXPECT_EQ(module_format(json, "a", "x").value(), (quant::Format{3, 32}));
  EXPECT_EQ(module_format(json, "b", "x").value(), (quant::Format{16, 0}));
  EXPECT_EQ(module_format(json, "c", "x").value(), (quant::Format{4, 64}));
  EXPECT_EQ(module_format(json, "other", "x").value(), (quant::Format{4, 64}));
  EXPECT_EQ(module_format(Json::object(), "a", "x").value(), (quant::Format{16, 0}));
}

TEST(ModuleFormat, RefusesWhatCannotBe) {
  const char* const cases[] = {
      R"({"quantization": {"group_size": 64, "bits": 7}})",
      R"({"quantization": {"group_size": 48, "bits": 4}})",
      R"({"quantization": {"group_size": 64}})",
      R"({"quantization": {"group_size": 64, "bits": 4, "mode": "mxfp4"}})",
      R"({"quantization": {"group_size": 64, "bits": 4, "a": 4}})",
      R"({"quantization": {"group_size": 64, "bits": 4, "a": {"bits": 4}}})",
      R"({"quantization": {"group_size": 64, "bits": 4, "a": {"bits": 4, "group_size": 64, "mode": "nvfp4"}}})",
      R"({"quantization": []})",
      R"({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}})"};
  for (const char* text : cases) {
    const auto format = module_format(parse_json(text, "x").value(), "a", "config.json");
    ASSERT_FALSE(format) << text;
    EXPECT_EQ(format.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(contains(format.error().message, "config.json"));
  }
}

}  // namespace
}  // namespace optiq::model
