#include <gtest/gtest.h>

#include <functional>

#include "optiq/io/checkpoint.h"
#include "optiq/plan/planner.h"
#include "support/contains.h"
#include "support/sensitivity.h"
#include "support/temporary_folder.h"

namespace optiq::plan {
namespace {

/// A plan with a random format (or dense) for each module.
Plan random_plan(Random& random) {
  const profile::Sensitivity all = test::random_sensitivity(random, 3);
  Rules rules{.allow_dense = true};
  for (const auto& module : all.modules) {
    const std::size_t pick = random.below(module.options.size() + 1);
    const quant::Format dense{.bits = 16, .group_size = 0};
    rules.pins.push_back({module.name, pick == 0 ? dense : module.options[pick - 1].format});
  }
  return make_plan(all, size_budget(1 << 30), rules).value();
}

/// Writes zeros as the plan's checkpoint and adds up the files.
std::uint64_t written_bytes(const Plan& plan) {
  const test::TemporaryFolder folder;
  const auto tensors = checkpoint_tensors(plan);
  auto writer = io::CheckpointWriter::create(folder.path(), io::layout_shards(tensors)).value();
  for (const io::TensorSpec& tensor : tensors) {
    const std::vector<std::byte> zeros(io::tensor_bytes(tensor).value());
    EXPECT_TRUE(writer.write(tensor.name, zeros));
  }
  EXPECT_TRUE(writer.finish(static_cast<std::uint64_t>(plan.model.parameters)));
  std::uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
    if (entry.path().extension() == ".safetensors") bytes += entry.file_size();
  return bytes;
}

TEST(PlanFile, BytesAreThoseOfTheFilesThatAreWritten) {
  Random random(1);
  for (int round = 0; round < 20; ++round) {
    const Plan plan = random_plan(random);
    EXPECT_EQ(plan.bytes, written_bytes(plan));
    EXPECT_EQ(exact_bytes(plan), plan.bytes);
    EXPECT_DOUBLE_EQ(plan.bits_per_weight,
                     static_cast<double>(plan.bytes) * 8 / static_cast<double>(plan.model.parameters));
  }
}

TEST(PlanFile, TensorsAreThoseOfTheBlocksFirstWithTheirShapes) {
  Random random(2);
  const profile::Sensitivity all = test::random_sensitivity(random, 1);
  const Rules rules{.allow_dense = true,
                    .pins = {{"*embed*", {.bits = 3, .group_size = 64}},
                             {"*q_proj", {.bits = 16, .group_size = 0}},
                             {"*", {.bits = 8, .group_size = 128}}}};
  const auto tensors = checkpoint_tensors(make_plan(all, size_budget(1 << 30), rules).value());
  const std::vector<io::TensorSpec> expected{
      {"model.layers.0.self_attn.q_proj.weight", DType::bf16, {128, 128}},
      {"model.layers.0.mlp.down_proj.weight", DType::u32, {128, 96}},
      {"model.layers.0.mlp.down_proj.scales", DType::bf16, {128, 3}},
      {"model.layers.0.mlp.down_proj.biases", DType::bf16, {128, 3}},
      {"model.embed_tokens.weight", DType::u32, {320, 12}},
      {"model.embed_tokens.scales", DType::bf16, {320, 2}},
      {"model.embed_tokens.biases", DType::bf16, {320, 2}},
      {"model.layers.0.input_layernorm.weight", DType::bf16, {128}}};
  ASSERT_EQ(tensors.size(), expected.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(tensors[i].name, expected[i].name);
    EXPECT_EQ(tensors[i].dtype, expected[i].dtype);
    EXPECT_EQ(tensors[i].shape, expected[i].shape);
  }
}

TEST(PlanFile, ReadsBackExactly) {
  const test::TemporaryFolder folder;
  Random random(3);
  Plan plan = random_plan(random);
  plan.memory = MemoryUse{
      .context_tokens = 9, .sequences = 2, .weight_bytes = plan.bytes, .cache_bytes = 3, .scratch_bytes = 4};
  plan.latency = TokenTime{.seconds_per_token = 1.0 / 3, .limit_seconds = 0.5};
  const auto path = folder.path() / "plan.json";
  ASSERT_TRUE(write_plan(path, plan));
  const auto read = read_plan(path);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(plan_to_json(*read), plan_to_json(plan));
  EXPECT_EQ(read->predicted_kl, plan.predicted_kl);
  EXPECT_EQ(read->modules[1].cost, plan.modules[1].cost);
  EXPECT_EQ(read->memory->total(), plan.bytes + 7);
  EXPECT_EQ(read->latency->seconds_per_token, 1.0 / 3);
}

Plan plan_with_cache(Random& random, std::int64_t layers) {
  profile::Sensitivity all = test::random_sensitivity(random, layers);
  test::add_random_caches(random, all);
  const MemoryNeed need{.context_tokens = 3000, .plans_keys = true, .plans_values = true};
  return make_plan(all, memory_budget(all, 200'000'000, need).value()).value();
}

TEST(PlanFile, TheCacheReadsBack) {
  Random random(5);
  Plan plan = plan_with_cache(random, 3);
  ASSERT_TRUE(plan.cache);
  const auto read = plan_from_json(plan_to_json(plan), "p.json");
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->cache->blocks, plan.cache->blocks);
  EXPECT_EQ(read->cache->predicted_kl, plan.cache->predicted_kl);
  EXPECT_EQ(plan_to_json(*read), plan_to_json(plan));
  using kernels::cpu::CacheStorage;
  const CachePlan mixed{.blocks = {{CacheStorage::packed3, CacheStorage::f16}, {CacheStorage::packed5}}};
  EXPECT_EQ(mixed.bits(), (3 + 16 + 5 + 5) / 4.0);
}

TEST(PlanFile, NamesWhatIsWrongOfTheCache) {
  Random random(6);
  const Json good = plan_to_json(plan_with_cache(random, 2));
  const auto error = [&](const std::function<void(Json&)>& spoil) {
    Json bad = good;
    spoil(bad);
    const auto read = plan_from_json(bad, "p.json");
    EXPECT_FALSE(read);
    if (read) return std::string();
    EXPECT_EQ(read.error().code, ErrorCode::bad_input);
    return read.error().message;
  };
  EXPECT_TRUE(test::contains(error([](Json& j) { j["kv"]["version"] = 0; }), "kv: version is 0, expected 1"));
  EXPECT_TRUE(test::contains(error([](Json& j) { j["kv"]["blocks"].erase(0); }),
                             "kv: formats of 1 blocks, but the model has 2"));
  EXPECT_TRUE(test::contains(error([](Json& j) { j["kv"]["blocks"][1]["keys"] = 7; }),
                             "blocks[1]: \"keys\" is 7, expected 3, 4, 5, 6, 8 or 16"));
  EXPECT_TRUE(test::contains(error([](Json& j) { j["kv"]["blocks"][0].erase("values"); }), "values"));
  EXPECT_TRUE(test::contains(error([](Json& j) { j["memory"]["cache_bytes"] = 5; }), "\"cache_bytes\" is 5"));
  EXPECT_TRUE(test::contains(error([](Json& j) {
                               j["kv"]["blocks"][0] = {{"keys", 3}, {"values", 3}};
                             }),
                             "these formats take"));
  EXPECT_TRUE(test::contains(error([](Json& j) { j.erase("memory"); }), "without \"memory\""));
  EXPECT_TRUE(
      test::contains(error([](Json& j) { j["memory"]["context_tokens"] = INT64_MAX; }), "sensible size"));
}

TEST(PlanFile, NamesWhatIsWrong) {
  Random random(4);
  const Plan plan =
      make_plan(test::random_sensitivity(random, 2), size_budget(200000), {.bits = {4}, .group_sizes = {64}})
          .value();
  const Json good = plan_to_json(plan);
  ASSERT_TRUE(plan_from_json(good, "p.json"));
  struct Fault {
    std::string expected;
    std::function<void(Json&)> make;
  };
  const std::string module = "module model.layers.0.self_attn.q_proj: ";
  const std::vector<Fault> faults{
      {"expected \"optiq-plan\" version 1", [](Json& j) { j["format"] = "other"; }},
      {"\"modules\": expected an array", [](Json& j) { j.erase("modules"); }},
      {"no modules", [](Json& j) { j["modules"] = Json::array(); }},
      {module + "\"bytes\" is 7, but 4x64 of [128, 128] takes 9216",
       [](Json& j) { j["modules"][1]["bytes"] = 7; }},
      {module + "\"bytes\" is 9216, but 5x64", [](Json& j) { j["modules"][1]["bits"] = 5; }},
      {module + "16 bits in groups of 64 is no format", [](Json& j) { j["modules"][1]["bits"] = 16; }},
      {module, [](Json& j) { j["modules"][1]["in_features"] = 96; }},
      {module + "encoder", [](Json& j) { j["modules"][1]["encoder"] = "magic"; }},
      {"model.embed_tokens.weight is listed twice",
       [](Json& j) { j["modules"][1]["name"] = "model.embed_tokens"; }},
      {"\"bytes\" is 5, but the checkpoint takes", [](Json& j) { j["bytes"] = 5; }},
      {"\"bytes\" is -5", [](Json& j) { j["bytes"] = -5; }},
      {"exceed the budget of 100", [](Json& j) { j["budget_bytes"] = 100; }},
      {"bits_per_weight is 3", [](Json& j) { j["bits_per_weight"] = 3; }},
      {"memory: \"scratch_bytes\"",
       [](Json& j) {
         j["memory"] = {{"context_tokens", 1}, {"weight_bytes", 1}, {"cache_bytes", 1}};
       }},
      {"latency: \"limit_seconds\"",
       [](Json& j) {
         j["latency"] = {{"seconds_per_token", 1}};
       }},
      {"latency: 0 seconds a token",
       [](Json& j) {
         j["latency"] = {{"seconds_per_token", 0}, {"limit_seconds", 1}};
       }},
      {"latency: 2 seconds a token exceed the limit of 1",
       [](Json& j) {
         j["latency"] = {{"seconds_per_token", 2}, {"limit_seconds", 1}};
       }},
  };
  for (const Fault& fault : faults) {
    Json bad = good;
    fault.make(bad);
    const auto result = plan_from_json(bad, "p.json");
    ASSERT_FALSE(result) << fault.expected;
    EXPECT_EQ(result.error().code, ErrorCode::bad_input) << result.error().message;
    EXPECT_TRUE(test::contains(result.error().message, fault.expected));
    EXPECT_TRUE(test::contains(result.error().message, "p.json: "));
  }
}

}  // namespace
}  // namespace optiq::plan
