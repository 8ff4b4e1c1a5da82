#include "optiq/compare/block_format.h"

#include <gtest/gtest.h>

#include "support/seed.h"
#include "support/sensitivity.h"
#include "support/tiny_model.h"

namespace optiq::compare {
namespace {

namespace mx = model::mx;

// Vectors made with gguf.quants of the Python package gguf (numpy seed 20261125): what Q4_0 gives back.
constexpr float kInput[] = {-0x1.3a7fa00000000p-5F,
                            -0x1.e3064a0000000p-8F,
                            0x1.7102f40000000p-6F,
                            0x1.4cf3ac0000000p-6F,
                            -0x1.ba00820000000p-6F,
                            -0x1.f3d5900000000p-11F,
                            -0x1.4bf8de0000000p-14F,
                            0x1.965c000000000p-9F,
                            0x1.3882840000000p-7F,
                            -0x1.df73e80000000p-7F,
                            0x1.91c50c0000000p-8F,
                            -0x1.ae07440000000p-8F,
                            -0x1.375a520000000p-10F,
                            -0x1.b129e40000000p-8F,
                            -0x1.f692180000000p-10F,
                            0x1.ef6a0e0000000p-12F,
                            0x1.a1fd0c0000000p-7F,
                            0x1.4af9160000000p-7F,
                            0x1.35366a0000000p-7F,
                            0x1.f6a7dc0000000p-7F,
                            0x1.450b780000000p-6F,
                            -0x1.5c860a0000000p-6F,
                            -0x1.b7a4dc0000000p-6F,
                            0x1.c17cca0000000p-9F,
                            0x1.44fe600000000p-8F,
                            0x1.93437a0000000p-7F,
                            0x1.fe96060000000p-7F,
                            -0x1.765c7a0000000p-7F,
                            -0x1.5714ee0000000p-6F,
                            -0x1.f26cb40000000p-7F,
                            0x1.09d93a0000000p-6F,
                            -0x1.8ea7740000000p-7F,
                            -0x1.7ea8540000000p-4F,
                            0x1.4dd3c80000000p-1F,
                            -0x1.75b63a0000000p+0F,
                            0x1.1b71940000000p-1F,
                            0x1.dcb5220000000p-1F,
                            -0x1.5e9af40000000p+1F,
                            -0x1.4f60480000000p-1F,
                            0x1.b7b6580000000p-2F,
                            0x1.90a0f40000000p+0F,
                            0x1.5e9af40000000p+1F,
                            0x1.74da480000000p+0F,
                            0x1.86ca5e0000000p+0F,
                            -0x1.a224ec0000000p-2F,
                            -0x1.5d86ac0000000p-3F,
                            0x1.5e9af40000000p+1F,
                            0x1.4780fc0000000p+0F,
                            -0x1.36e3880000000p-4F,
                            -0x1.3998a80000000p-1F,
                            0x1.4fef900000000p+0F,
                            -0x1.d6184e0000000p-1F,
                            -0x1.164e720000000p-3F,
                            0x1.032c340000000p-1F,
                            -0x1.c5ca620000000p-2F,
                            -0x1.b4bd4c0000000p-3F,
                            -0x1.af30820000000p-2F,
                            0x1.5232ae0000000p-2F,
                            0x1.1f53be0000000p+0F,
                            0x1.f9ba8c0000000p-2F,
                            -0x1.58194e0000000p+1F,
                            0x1.11c5e00000000p+0F,
                            0x1.c2cad00000000p+0F,
                            0x1.7818280000000p-1F,
                            0x1.9a972e0000000p+0F,
                            -0x1.5c93920000000p+5F,
                            -0x1.fd65ea0000000p+3F,
                            0x1.d22e080000000p+5F,
                            -0x1.13fcec0000000p+4F,
                            0x1.0df9240000000p+5F,
                            0x1.0a11de0000000p+3F,
                            0x1.7769260000000p+4F,
                            -0x1.2bef3a0000000p+4F,
                            0x1.23fd260000000p+3F,
                            -0x1.cdb8600000000p+4F,
                            -0x1.4c3a840000000p+5F,
                            -0x1.1711d20000000p+4F,
                            -0x1.903df00000000p+3F,
                            -0x1.a4cb460000000p+5F,
                            -0x1.21db800000000p+6F,
                            0x1.49fbac0000000p+5F,
                            0x1.b6de480000000p+3F,
                            -0x1.e5c6220000000p+4F,
                            0x1.d53eb20000000p+3F,
                            -0x1.7e6b960000000p+0F,
                            0x1.0acd000000000p+2F,
                            0x1.11dc160000000p+4F,
                            -0x1.3c94920000000p+2F,
                            0x1.1883d40000000p+2F,
                            -0x1.cb9c9a0000000p+3F,
                            -0x1.2a206a0000000p+4F,
                            0x1.9260140000000p+5F,
                            0x1.b3bf3e0000000p+4F,
                            0x1.1771140000000p+4F,
                            -0x1.1888e80000000p+4F,
                            0x1.67f6a40000000p+4F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F,
                            0x0p+0F};
constexpr float kOutput[] = {-0x1.3a80000000000p-5F,
                             -0x1.3a80000000000p-7F,
                             0x1.8920000000000p-6F,
                             0x1.3a80000000000p-6F,
                             -0x1.d7c0000000000p-6F,
                             0x0p+0F,
                             0x0p+0F,
                             0x1.3a80000000000p-8F,
                             0x1.3a80000000000p-7F,
                             -0x1.d7c0000000000p-7F,
                             0x1.3a80000000000p-8F,
                             -0x1.3a80000000000p-8F,
                             0x0p+0F,
                             -0x1.3a80000000000p-8F,
                             0x0p+0F,
                             0x0p+0F,
                             0x1.d7c0000000000p-7F,
                             0x1.3a80000000000p-7F,
                             0x1.3a80000000000p-7F,
                             0x1.d7c0000000000p-7F,
                             0x1.3a80000000000p-6F,
                             -0x1.3a80000000000p-6F,
                             -0x1.d7c0000000000p-6F,
                             0x1.3a80000000000p-8F,
                             0x1.3a80000000000p-8F,
                             0x1.d7c0000000000p-7F,
                             0x1.d7c0000000000p-7F,
                             -0x1.3a80000000000p-7F,
                             -0x1.3a80000000000p-6F,
                             -0x1.d7c0000000000p-7F,
                             0x1.d7c0000000000p-7F,
                             -0x1.d7c0000000000p-7F,
                             0x0p+0F,
                             0x1.5e80000000000p-1F,
                             -0x1.5e80000000000p+0F,
                             0x1.5e80000000000p-1F,
                             0x1.06e0000000000p+0F,
                             -0x1.5e80000000000p+1F,
                             -0x1.5e80000000000p-1F,
                             0x1.5e80000000000p-2F,
                             0x1.b620000000000p+0F,
                             0x1.32b0000000000p+1F,
                             0x1.5e80000000000p+0F,
                             0x1.5e80000000000p+0F,
                             -0x1.5e80000000000p-2F,
                             0x0p+0F,
                             0x1.32b0000000000p+1F,
                             0x1.5e80000000000p+0F,
                             0x0p+0F,
                             -0x1.5e80000000000p-1F,
                             0x1.5e80000000000p+0F,
                             -0x1.06e0000000000p+0F,
                             0x0p+0F,
                             0x1.5e80000000000p-2F,
                             -0x1.5e80000000000p-2F,
                             -0x1.5e80000000000p-2F,
                             -0x1.5e80000000000p-2F,
                             0x1.5e80000000000p-2F,
                             0x1.06e0000000000p+0F,
                             0x1.5e80000000000p-2F,
                             -0x1.5e80000000000p+1F,
                             0x1.06e0000000000p+0F,
                             0x1.b620000000000p+0F,
                             0x1.5e80000000000p-1F,
                             0x0p+0F,
                             -0x1.6a30000000000p+5F,
                             -0x1.21c0000000000p+4F,
                             0x1.b2a0000000000p+5F,
                             -0x1.21c0000000000p+4F,
                             0x1.21c0000000000p+5F,
                             0x1.21c0000000000p+3F,
                             0x1.b2a0000000000p+4F,
                             -0x1.21c0000000000p+4F,
                             0x1.21c0000000000p+3F,
                             -0x1.b2a0000000000p+4F,
                             -0x1.6a30000000000p+5F,
                             -0x1.21c0000000000p+4F,
                             -0x1.21c0000000000p+3F,
                             -0x1.b2a0000000000p+5F,
                             -0x1.21c0000000000p+6F,
                             0x1.6a30000000000p+5F,
                             0x1.21c0000000000p+4F,
                             -0x1.b2a0000000000p+4F,
                             0x1.21c0000000000p+4F,
                             0x0p+0F,
                             0x0p+0F,
                             0x1.21c0000000000p+4F,
                             -0x1.21c0000000000p+3F,
                             0x0p+0F,
                             -0x1.21c0000000000p+4F,
                             -0x1.21c0000000000p+4F,
                             0x1.b2a0000000000p+5F,
                             0x1.b2a0000000000p+4F,
                             0x1.21c0000000000p+4F,
                             -0x1.21c0000000000p+4F,
                             0x1.21c0000000000p+4F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F,
                             -0x0p+0F};

TEST(BlockFormat, Q40GivesTheBitsOfTheReference) {
  std::vector<float> values(std::begin(kInput), std::end(kInput));
  round_to_blocks(BlockFormat::q4_0, values);
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], kOutput[i]) << i;
}

/// QLoRA's codes, arXiv 2305.14314, appendix E.
constexpr double kCodes[] = {-1.0,
                             -0.6961928009986877,
                             -0.5250730514526367,
                             -0.39491748809814453,
                             -0.28444138169288635,
                             -0.18477343022823334,
                             -0.09105003625154495,
                             0.0,
                             0.07958029955625534,
                             0.16093020141124725,
                             0.24611230194568634,
                             0.33791524171829224,
                             0.44070982933044434,
                             0.5626170039176941,
                             0.7229568362236023,
                             1.0};

TEST(BlockFormat, Nf4TakesTheNearestCode) {
  Random random(test::seed());
  std::vector<float> values(3 * 64 + 20);
  for (float& value : values) value = static_cast<float>(random.normal());
  const std::vector<float> before = values;
  round_to_blocks(BlockFormat::nf4, values);
  for (std::size_t begin = 0; begin < values.size(); begin += 64) {
    const std::size_t end = std::min(begin + 64, values.size());
    double absmax = 0;
    for (std::size_t i = begin; i < end; ++i) absmax = std::max(absmax, std::abs(double{before[i]}));
    for (std::size_t i = begin; i < end; ++i) {
      double least = 1e9, written = 1e9;
      for (const double code : kCodes) {
        least = std::min(least, std::abs(before[i] - code * absmax));
        written = std::min(written, std::abs(values[i] - code * absmax));
      }
      EXPECT_LE(written, 1e-7 * absmax) << "a code times the block's absmax";
      EXPECT_LE(std::abs(double{before[i]} - values[i]), least + 1e-6 * absmax);
    }
  }
}

TEST(BlockFormat, ZerosStayZeros) {
  for (const BlockFormat format : {BlockFormat::q4_0, BlockFormat::nf4}) {
    std::vector<float> values(64, 0.0f);
    round_to_blocks(format, values);
    for (const float value : values) EXPECT_EQ(value, 0);
  }
}

TEST(BlockFormat, TakesTheBytesOfItsBlocks) {
  EXPECT_EQ(block_bytes(BlockFormat::q4_0, 96), 3U * 18);  // two bytes of scale, 32 half bytes
  EXPECT_EQ(block_bytes(BlockFormat::nf4, 128), 2U * (32 + 4));
  Random random(test::seed());
  auto all = test::random_sensitivity(random, 3);
  std::uint64_t fixed = 0, weights = 0;
  for (const auto& tensor : all.fixed) fixed += io::tensor_bytes(tensor).value();
  for (const auto& module : all.modules)
    weights += static_cast<std::uint64_t>(module.out_features * module.in_features);
  EXPECT_EQ(simulated_bytes(all, BlockFormat::q4_0).value(), fixed + weights / 32 * 18);
  EXPECT_EQ(simulated_bytes(all, BlockFormat::nf4).value(), fixed + weights / 64 * 36);
  all.modules.front().in_features += 1;
  EXPECT_FALSE(simulated_bytes(all, BlockFormat::q4_0));
}

TEST(BlockFormat, WritesMatricesRoundedAndTheRestAsItIs) {
  const auto model = test::golden_model("llama");
  const test::TemporaryFolder folder;
  const Status written = write_simulated(model, BlockFormat::q4_0, folder.path() / "out", nullptr);
  ASSERT_TRUE(written) << written.error().message;
  const auto simulated = model::Model::open(folder.path() / "out").value();
  for (const auto& module : model.modules()) {
    const auto original = test::values(model.dense_weight(module.name).value());
    std::vector<float> expected(original.begin(), original.end());
    round_to_blocks(BlockFormat::q4_0, expected);
    const auto found = test::values(simulated.dense_weight(module.name).value());
    for (std::size_t i = 0; i < found.size(); ++i) ASSERT_EQ(found[i], double{expected[i]}) << module.name;
  }
  EXPECT_EQ(test::values(simulated.weights().final_norm), test::values(model.weights().final_norm));
}

}  // namespace
}  // namespace optiq::compare
