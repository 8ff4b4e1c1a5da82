#include "optiq/plan/latency.h"

#include <gtest/gtest.h>

#include <functional>

#include "optiq/plan/planner.h"
#include "support/contains.h"
#include "support/latency.h"
#include "support/sensitivity.h"
#include "support/temporary_folder.h"

namespace optiq::plan {
namespace {

constexpr quant::Format kDense{.bits = 16, .group_size = 0};

LatencyTable small_table() {
  return {.machine = {"AMD EPYC", "avx512", 2},
          .fixed_seconds = 0.0001,
          .entries = {
              {128, 128, {4, 64}, 1e-6, 1e-8}, {512, 512, {4, 64}, 9e-6, 0}, {128, 128, kDense, 3e-6, 0}}};
}

TEST(Latency, ReadsBackExactly) {
  const test::TemporaryFolder folder;
  LatencyTable table = small_table();
  table.entries[1].seconds = 1.0 / 3e5;
  const auto path = folder.path() / "latency.json";
  ASSERT_TRUE(write_latency(path, table));
  const auto read = read_latency(path);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(latency_to_json(*read), latency_to_json(table));
  EXPECT_EQ(read->entries[1].seconds, 1.0 / 3e5);
  EXPECT_EQ(read->machine.isa, "avx512");
  table.entries.clear();
  EXPECT_FALSE(write_latency(path, table));
  EXPECT_TRUE(read_latency(path)) << "the old file is untouched";
}

TEST(Latency, NamesWhatIsWrong) {
  const Json good = latency_to_json(small_table());
  ASSERT_TRUE(latency_from_json(good, "l.json"));
  struct Fault {
    std::string expected;
    std::function<void(Json&)> make;
  };
  const std::vector<Fault> faults{
      {"expected \"optiq-latency\" version 1", [](Json& j) { j["version"] = 2; }},
      {"machine: \"isa\"", [](Json& j) { j["machine"].erase("isa"); }},
      {"machine: \"threads\" is 0", [](Json& j) { j["machine"]["threads"] = 0; }},
      {"\"fixed_seconds\" is -1, expected 0 to 3600 seconds", [](Json& j) { j["fixed_seconds"] = -1; }},
      {"no entries", [](Json& j) { j["entries"] = Json::array(); }},
      {"entries[1]: \"in_features\" is 0", [](Json& j) { j["entries"][1]["in_features"] = 0; }},
      {"entries[1]: \"out_features\" is", [](Json& j) { j["entries"][1]["out_features"] = INT64_MAX; }},
      {"entries[1]: expected in_features to be a multiple",
       [](Json& j) { j["entries"][1]["in_features"] = 96; }},
      {"entries[1]: expected 2, 3, 4, 5, 6 or 8 bits", [](Json& j) { j["entries"][1]["bits"] = 7; }},
      {"entries[2]: 16 bits in groups of 64", [](Json& j) { j["entries"][2]["group_size"] = 64; }},
      {"entries[0]: \"seconds\" is 0, expected more than 0", [](Json& j) { j["entries"][0]["seconds"] = 0; }},
      {"entries[0]: \"seconds\" is 3601", [](Json& j) { j["entries"][0]["seconds"] = 3601; }},
      {"entries[0]: \"spread_seconds\" is -1", [](Json& j) { j["entries"][0]["spread_seconds"] = -1; }},
      {"entries[3]: 4x64 of [512, 512] is listed twice",
       [](Json& j) { j["entries"].push_back(j["entries"][1]); }},
  };
  for (const Fault& fault : faults) {
    Json bad = good;
    fault.make(bad);
    const auto result = latency_from_json(bad, "l.json");
    ASSERT_FALSE(result) << fault.expected;
    EXPECT_EQ(result.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(test::contains(result.error().message, fault.expected));
    EXPECT_TRUE(test::contains(result.error().message, "l.json: "));
  }
}

TEST(Latency, LooksUpShapesAndScalesByBytes) {
  const LatencyTable table = small_table();
  EXPECT_EQ(table.seconds(512, 512, {4, 64}), 9e-6);
  // Twice the bytes of [128, 128]; [512, 512] is eight times as far away.
  EXPECT_DOUBLE_EQ(table.seconds(128, 256, {4, 64}).value(), 2e-6);
  EXPECT_DOUBLE_EQ(table.seconds(1024, 512, {4, 64}).value(), 18e-6);
  // Sixty-four times as many weights as the only dense one, which is alone of its format.
  EXPECT_DOUBLE_EQ(table.seconds(1024, 1024, kDense).value(), 64 * 3e-6);
  const auto missing = table.seconds(128, 128, {4, 32});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::bad_input);
  EXPECT_EQ(missing.error().message, "format 4x32 was not measured");
}

/// Seconds of a token by the definition.
double token_seconds(const LatencyTable& table, const Plan& plan, bool tied) {
  double seconds = table.fixed_seconds;
  for (const PlannedModule& module : plan.modules) {
    if (tied || module.name != "model.embed_tokens")
      seconds += table.seconds(module.out_features, module.in_features, module.format).value();
  }
  return seconds;
}

Budget timed(Budget budget, const LatencyTable& table, double seconds) {
  budget.latency = LatencyLimit{table, seconds};
  return budget;
}

TEST(MakePlanWithinTime, KeepsBothLimitsAndPredictsTheTime) {
  Random random(1);
  for (const auto estimator : {profile::Estimator::kl, profile::Estimator::fisher}) {
    const auto all = test::random_sensitivity(random, 4, estimator);
    const LatencyTable table = test::latency_of(all);
    const Budget bytes = bits_per_weight_budget(all, 5).value();
    const Plan free = make_plan(all, bytes).value();
    EXPECT_FALSE(free.latency);
    const double all_of_it = token_seconds(table, free, true);
    double before = 0;
    for (const double share : {1.0, 0.97, 0.94}) {
      const Plan plan = make_plan(all, timed(bytes, table, share * all_of_it)).value();
      ASSERT_TRUE(plan.latency);
      EXPECT_NEAR(plan.latency->seconds_per_token, token_seconds(table, plan, true), 1e-10);
      EXPECT_LE(plan.latency->seconds_per_token, share * all_of_it * (1 + 1e-9));
      EXPECT_EQ(plan.latency->limit_seconds, share * all_of_it);
      EXPECT_LE(plan.bytes, bytes.file_bytes);
      double cost = 0;
      for (const PlannedModule& module : plan.modules) cost += module.cost;
      if (estimator == profile::Estimator::kl) {
        EXPECT_GE(cost, before * (1 - 1e-6));
      }
      before = cost;
    }
  }
}

TEST(MakePlanWithinTime, SaysTheMostTokensPerSecond) {
  Random random(2);
  const auto all = test::random_sensitivity(random, 3);
  const LatencyTable table = test::latency_of(all);
  const Budget bytes = bits_per_weight_budget(all, 4).value();
  const auto refused = make_plan(all, timed(bytes, table, 1e-7));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::impossible_budget);
  const std::string& message = refused.error().message;
  EXPECT_TRUE(test::contains(message, "1e+07 tokens per second (1e-07 s a token) are too many"));
  const std::string before = "possible makes ";
  const double most = std::stod(message.substr(message.find(before) + before.size()));
  const auto reached = make_plan(all, timed(bytes, table, 1 / most));
  ASSERT_TRUE(reached) << reached.error().message;
  EXPECT_GE(reached->latency->tokens_per_second(), most * (1 - 1e-9));
  EXPECT_FALSE(make_plan(all, timed(bytes, table, 1 / (most * 1.001))));
}

TEST(MakePlanWithinTime, EmbeddingsCountOnlyWhereTheyAreTheHead) {
  Random random(3);
  auto all = test::random_sensitivity(random, 2);
  const Budget bytes = size_budget(1 << 30);
  const LatencyTable table = test::latency_of(all);
  EXPECT_NEAR(make_plan(all, timed(bytes, table, 1)).value().latency->seconds_per_token,
              token_seconds(table, make_plan(all, bytes).value(), true), 1e-10);
  all.modules.push_back(all.modules.front());
  all.modules.back().name = "lm_head";
  EXPECT_NEAR(make_plan(all, timed(bytes, table, 1)).value().latency->seconds_per_token,
              token_seconds(table, make_plan(all, bytes).value(), false), 1e-10);
}

TEST(MakePlanWithinTime, RefusesWhatCannotBeLimited) {
  Random random(4);
  const auto all = test::random_sensitivity(random, 2);
  const Budget bytes = size_budget(1 << 30);
  const LatencyTable table = test::latency_of(all);
  for (const double bad : {0.0, -1.0, std::nan(""), HUGE_VAL})
    EXPECT_EQ(make_plan(all, timed(bytes, table, bad)).error().code, ErrorCode::usage);
  LatencyTable lacking = table;
  std::erase_if(lacking.entries, [](const auto& entry) { return entry.format == quant::Format{3, 64}; });
  const auto refused = make_plan(all, timed(bytes, lacking, 1));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, "latency: module model.embed_tokens: format 3x64 was not measured");
  EXPECT_TRUE(make_plan(all, timed(bytes, lacking, 1), {.bits = {4, 8}}));
}

}  // namespace
}  // namespace optiq::plan
