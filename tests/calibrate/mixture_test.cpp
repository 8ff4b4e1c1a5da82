#include "optiq/calibrate/mixture.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "optiq/base/random.h"
#include "support/contains.h"
#include "support/seed.h"

namespace optiq::calibrate {
namespace {

using Counts = std::vector<std::int64_t>;

TEST(Mixture, PartsAreNamesWithOptionalWeights) {
  EXPECT_EQ(parse_part("self").value(), (Part{"self", 1}));
  EXPECT_EQ(parse_part("self:2").value(), (Part{"self", 2}));
  EXPECT_EQ(parse_part("a,b.txt:0.25").value(), (Part{"a,b.txt", 0.25}));
  EXPECT_EQ(parse_part("a:2:1").value(), (Part{"a:2", 1}));
  EXPECT_EQ(parse_part("c:/chat:v2.jsonl").value(), (Part{"c:/chat:v2.jsonl", 1}));
  for (const char* name : {"a:", "a:-1", "a:1e3", "a:nan", "a:1.2.3", "a:."})
    EXPECT_EQ(parse_part(name).value(), (Part{name, 1})) << name;
  for (const char* bad : {"", ":1", "a:0", "a:1000001"}) {
    const auto part = parse_part(bad);
    ASSERT_FALSE(part) << bad;
    EXPECT_EQ(part.error().code, ErrorCode::usage);
  }
}

TEST(Mixture, SharesAreByLargestRemainder) {
  const auto shares = [](std::vector<double> weights, std::int64_t sequences) {
    std::vector<Part> parts;
    for (const double weight : weights) parts.push_back({std::to_string(parts.size()), weight});
    return share_out(parts, sequences);
  };
  EXPECT_EQ(shares({1}, 7).value(), (Counts{7}));
  EXPECT_EQ(shares({2, 1, 1}, 128).value(), (Counts{64, 32, 32}));
  EXPECT_EQ(shares({1, 1, 1}, 8).value(), (Counts{3, 3, 2}));          // equal remainders: the first ones
  EXPECT_EQ(shares({0.1, 0.2, 0.7}, 16).value(), (Counts{2, 3, 11}));  // 1.6, 3.2, 11.2
  const auto starved = shares({1, 1000}, 16);
  ASSERT_FALSE(starved);
  EXPECT_EQ(starved.error().code, ErrorCode::usage);
  EXPECT_TRUE(test::contains(starved.error().message, "none of 16 sequences"));
  EXPECT_FALSE(shares({}, 4));
  EXPECT_FALSE(share_out({{"a", 1}, {"b", 1}, {"a", 2}}, 8));
}

TEST(Mixture, EveryBeginningIsBalanced) {
  Random random(test::seed());
  for (int round = 0; round < 300; ++round) {
    Counts counts(1 + random.below(5));
    for (auto& count : counts) count = static_cast<std::int64_t>(1 + random.below(40));
    const auto total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}));
    const auto order = interleaved_parts(counts);
    ASSERT_EQ(static_cast<double>(order.size()), total);
    Counts taken(counts.size(), 0);
    for (std::size_t k = 0; k < order.size(); ++k) {
      ++taken[order[k]];
      for (std::size_t part = 0; part < counts.size(); ++part) {
        const double share = static_cast<double>(counts[part]) / total;
        const double expected = share * static_cast<double>(k + 1);
        const double bound = 0.5 + share * static_cast<double>(counts.size()) / 2;
        ASSERT_LE(std::fabs(static_cast<double>(taken[part]) - expected), bound + 1e-9);
      }
    }
    EXPECT_EQ(taken, counts);
  }
}

TEST(Mixture, IsCalledByItsParts) {
  EXPECT_EQ(describe({{"a.txt", 3}}), "a.txt");
  EXPECT_EQ(describe({{"self", 2}, {"a.txt", 0.5}}), "self:2 + a.txt:0.5");
}

}  // namespace
}  // namespace optiq::calibrate
