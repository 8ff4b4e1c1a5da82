#include "optiq/profile/sensitivity.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "support/contains.h"
#include "support/sensitivity.h"
#include "support/temporary_folder.h"

namespace optiq::profile {
namespace {

void expect_equal(const Sensitivity& a, const Sensitivity& b) {
  EXPECT_EQ(sensitivity_to_json(a), sensitivity_to_json(b));
  ASSERT_EQ(a.modules.size(), b.modules.size());
  for (std::size_t m = 0; m < a.modules.size(); ++m) {
    ASSERT_EQ(a.modules[m].options.size(), b.modules[m].options.size());
    for (std::size_t o = 0; o < a.modules[m].options.size(); ++o) {
      EXPECT_EQ(a.modules[m].options[o].cost, b.modules[m].options[o].cost);
      EXPECT_EQ(a.modules[m].options[o].projections, b.modules[m].options[o].projections);
    }
  }
}

TEST(SensitivityFile, ReadsBackExactly) {
  const test::TemporaryFolder folder;
  Random random(1);
  for (const Estimator estimator : {Estimator::fisher, Estimator::kl, Estimator::mse}) {
    Sensitivity written = test::random_sensitivity(random, 3, estimator);
    written.modules[0].options[0].cost = -0x1.fffffffffffffp-30;
    if (estimator == Estimator::fisher) {
      auto& values = written.modules[1].options[1].projections;
      values[0] = std::numeric_limits<float>::denorm_min();
      values[1] = -std::numeric_limits<float>::max();
      values[2] = std::nextafter(1.0f, 2.0f);
      for (std::size_t i = 3; i < values.size(); ++i)
        values[i] =
            std::ldexp(static_cast<float>(random.normal()), static_cast<int>(random.below(200)) - 100);
    }
    const auto path = folder.path() / "sensitivity.json";
    ASSERT_TRUE(write_sensitivity(path, written));
    const auto read = read_sensitivity(path);
    ASSERT_TRUE(read) << read.error().message;
    expect_equal(written, *read);
  }
}

TEST(SensitivityFile, CostsOfTheCacheReadBackAndFilesWithoutThemStayReadable) {
  Random random(4);
  for (const Estimator estimator : {Estimator::fisher, Estimator::kl}) {
    Sensitivity all = test::random_sensitivity(random, 2, estimator);
    EXPECT_FALSE(sensitivity_to_json(all).contains("kv"));
    EXPECT_TRUE(sensitivity_from_json(sensitivity_to_json(all), "s.json")->caches.empty());
    test::add_random_caches(random, all);
    const auto read = sensitivity_from_json(sensitivity_to_json(all), "s.json");
    ASSERT_TRUE(read) << read.error().message;
    expect_equal(all, *read);
    ASSERT_EQ(read->caches.size(), 4u);
    for (std::size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(read->caches[i].layer, static_cast<std::int64_t>(i / 2));
      EXPECT_EQ(read->caches[i].part, all.caches[i].part);
      for (std::size_t o = 0; o < 5; ++o) {
        EXPECT_EQ(read->caches[i].options[o].format, all.caches[i].options[o].format);
        EXPECT_EQ(read->caches[i].options[o].cost, all.caches[i].options[o].cost);
        EXPECT_EQ(read->caches[i].options[o].projections, all.caches[i].options[o].projections);
      }
    }
  }
}

TEST(SensitivityFile, NamesWhatIsWrongOfTheCache) {
  Random random(5);
  Sensitivity all = test::random_sensitivity(random, 2);
  test::add_random_caches(random, all);
  const Json good = sensitivity_to_json(all);
  const auto error = [&](const std::function<void(Json&)>& spoil) {
    Json bad = good;
    spoil(bad["kv"]);
    const auto read = sensitivity_from_json(bad, "s.json");
    EXPECT_FALSE(read);
    if (read) return std::string();
    EXPECT_EQ(read.error().code, ErrorCode::bad_input);
    return read.error().message;
  };
  const auto option = [](Json& kv) -> Json& { return kv["blocks"][1]["values"][2]; };
  EXPECT_TRUE(test::contains(error([](Json& kv) { kv["version"] = 2; }), "kv: version is 2, expected 1"));
  EXPECT_TRUE(test::contains(error([](Json& kv) { kv["blocks"].erase(1); }), "of 2 blocks"));
  EXPECT_TRUE(test::contains(error([](Json& kv) { kv["blocks"][1].erase("keys"); }), "blocks[1]"));
  EXPECT_TRUE(
      test::contains(error([](Json& kv) { kv["blocks"][0]["keys"] = Json::array(); }), "block 0: keys"));
  EXPECT_TRUE(test::contains(error([&](Json& kv) { option(kv)["bits"] = 7; }), "7 bits"));
  EXPECT_TRUE(test::contains(error([&](Json& kv) { option(kv)["bits"] = 4; }), "rising"));
  EXPECT_TRUE(test::contains(error([&](Json& kv) { option(kv)["group_size"] = 32; }), "groups of 32"));
  EXPECT_TRUE(test::contains(error([&](Json& kv) { option(kv)["projections"].erase(0); }), "23 projections"));
  EXPECT_TRUE(test::contains(error([&](Json& kv) { option(kv)["standard_error"] = -1; }), "block 1: values"));
}

TEST(SensitivityFile, AMixtureReadsBackAndFilesWithoutOneStayReadable) {
  Random random(3);
  Sensitivity all = test::random_sensitivity(random, 1);
  EXPECT_FALSE(sensitivity_to_json(all)["calibration"].contains("mixture"));
  EXPECT_EQ(all.calibration.parts(), (std::vector{calibrate::Part{"self", 1}}));
  all.calibration.mixture = {{"self", 2}, {"a:b.txt", 0.1}};
  const auto read = sensitivity_from_json(sensitivity_to_json(all), "s.json");
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->calibration.mixture, all.calibration.mixture);
  EXPECT_EQ(read->calibration.parts(), all.calibration.mixture);
}

struct Fault {
  std::string expected;  ///< part of the message
  std::function<void(Json&)> make;
};

TEST(SensitivityFile, NamesWhatIsWrong) {
  Random random(2);
  const Json good = sensitivity_to_json(test::random_sensitivity(random, 2));
  ASSERT_TRUE(sensitivity_from_json(good, "s.json"));
  const auto option = [](Json& json) -> Json& { return json["modules"][1]["options"][2]; };
  const std::string module = "s.json: module model.layers.0.self_attn.q_proj";
  const std::vector<Fault> faults{
      {"expected \"optiq-sensitivity\" version 1", [](Json& j) { j["version"] = 2; }},
      {"expected \"optiq-sensitivity\" version 1", [](Json& j) { j["format"] = "optiq-plan"; }},
      {"estimator \"guess\"", [](Json& j) { j["estimator"] = "guess"; }},
      {"\"calibration\": expected an object", [](Json& j) { j["calibration"] = 3; }},
      {"0 sequences", [](Json& j) { j["calibration"]["sequences"] = 0; }},
      {"\"seed\"", [](Json& j) { j["calibration"]["seed"] = 1.5; }},
      {"mixture: expected several sources",
       [](Json& j) {
         j["calibration"]["mixture"] = {{{"source", "self"}, {"weight", 1}}};
       }},
      {"mixture[0]", [](Json& j) { j["calibration"]["mixture"] = Json::array({3}); }},
      {"none of 24 sequences",
       [](Json& j) {
         j["calibration"]["mixture"] = {{{"source", "a"}, {"weight", 1}}, {{"source", "b"}, {"weight", 1e6}}};
       }},
      {"half_split_spearman", [](Json& j) { j["half_split_spearman"] = 1.5; }},
      {"projection_scale", [](Json& j) { j["projection_scale"] = 0; }},
      {"s.json: model: \"layers\"", [](Json& j) { j["model"]["layers"] = 0; }},
      {"s.json: model: \"dtype\" is I64", [](Json& j) { j["model"]["dtype"] = "I64"; }},
      {"unknown type F8", [](Json& j) { j["model"]["dtype"] = "F8"; }},
      {"fixed[0]: \"shape\": -1", [](Json& j) { j["fixed"][0]["shape"] = {-1}; }},
      {"tensor model.layers.0.input_layernorm.weight is listed twice",
       [](Json& j) { j["fixed"].push_back(j["fixed"][0]); }},
      {"no modules", [](Json& j) { j["modules"] = Json::array(); }},
      {"the name is empty or listed twice", [](Json& j) { j["modules"].push_back(j["modules"][0]); }},
      {module + ": no options", [](Json& j) { j["modules"][1]["options"] = Json::array(); }},
      {module + ": \"layer\" is 2", [](Json& j) { j["modules"][1]["layer"] = 2; }},
      {module + ": \"in_features\"", [](Json& j) { j["modules"][1]["in_features"] = std::int64_t{1} << 60; }},
      {module + ": option 2x64 is listed twice",
       [](Json& j) { j["modules"][1]["options"].push_back(j["modules"][1]["options"][1]); }},
      {"s.json: modules[1]: module model.layers.0.self_attn.q_proj: options[2]: \"cost\"",
       [&](Json& j) { option(j)["cost"] = nullptr; }},
      {"s.json: modules[1]: module model.layers.0.self_attn.q_proj: options[2]: 7 bits in groups of 0",
       [&](Json& j) {
         option(j)["bits"] = 7;
         option(j)["group_size"] = 0;
       }},
      {module + ": option 7x128", [&](Json& j) { option(j)["bits"] = 7; }},
      {"a dense format has no cost",
       [&](Json& j) {
         option(j)["bits"] = 16;
         option(j)["group_size"] = 0;
       }},
      {module + ": option 2x128: standard_error is -1", [&](Json& j) { option(j)["standard_error"] = -1; }},
      {module + ": option 2x128: 23 projections, expected 24",
       [&](Json& j) { option(j)["projections"].erase(0); }},
      {module + ": option 2x128: 0 projections, expected 24",
       [&](Json& j) { option(j).erase("projections"); }},
      {"s.json: modules[1]: \"name\"", [](Json& j) { j["modules"][1]["name"] = 5; }},
      {"s.json: modules[1]: module model.layers.0.self_attn.q_proj: options[2]: \"projections\": 1e+300 is "
       "no float",
       [&](Json& j) { option(j)["projections"][3] = 1e300; }},
      {"estimator kl with 24 projections", [](Json& j) { j["estimator"] = "kl"; }},
  };
  for (const Fault& fault : faults) {
    Json bad = good;
    fault.make(bad);
    const auto result = sensitivity_from_json(bad, "s.json");
    ASSERT_FALSE(result) << fault.expected;
    EXPECT_EQ(result.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(test::contains(result.error().message, fault.expected));
    EXPECT_TRUE(test::contains(result.error().message, "s.json: "));
  }
}

TEST(SensitivityFile, IsNotWrittenWhereItIsWrong) {
  const test::TemporaryFolder folder;
  Random random(3);
  Sensitivity bad = test::random_sensitivity(random, 1);
  bad.modules[0].options[0].cost = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(write_sensitivity(folder.path() / "s.json", bad).error().code, ErrorCode::bad_input);
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "s.json"));
}

TEST(SeenSource, IsTheProfilesOwnWhereItsPartsAreWanted) {
  const Calibration calibration{.source = "a.txt", .sequences = 40, .tokens = 64, .seed = 3};
  const calibrate::Source wanted{.parts = {{"a.txt"}}, .sequences = 8, .tokens = 32, .seed = 1};
  const auto seen = seen_source(calibration, wanted);
  EXPECT_EQ(seen.sequences, 40);
  EXPECT_EQ(seen.tokens, 64);
  EXPECT_EQ(seen.seed, 3u);
  calibrate::Source other = wanted;
  other.parts = {{"b.txt"}};
  EXPECT_EQ(seen_source(calibration, other).sequences, 8);
}

}  // namespace
}  // namespace optiq::profile
