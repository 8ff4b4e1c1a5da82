#include "optiq/quant/format.h"

#include <gtest/gtest.h>

#include "optiq/quant/encoder.h"

namespace optiq::quant {
namespace {

TEST(Format, NamesComeBack) {
  for (const int bits : kBitChoices) {
    for (const int group : kGroupChoices) {
      const Format format{bits, group};
      EXPECT_EQ(parse_format(to_string(format)).value(), format);
    }
  }
  EXPECT_EQ(to_string({4, 64}), "4x64");
  EXPECT_EQ(to_string({16, 0}), "dense");
  EXPECT_EQ(parse_format("dense").value(), (Format{16, 0}));
}

TEST(Format, RefusesOtherNames) {
  for (const char* text :
       {"", "4", "x", "4x", "x64", "7x64", "4x16", "4x64 ", "+4x64", "16x0", "4x64x2", "DENSE"}) {
    const auto format = parse_format(text);
    ASSERT_FALSE(format) << text;
    EXPECT_EQ(format.error().code, ErrorCode::usage);
    EXPECT_NE(format.error().message.find(std::string("'") + text + "'"), std::string::npos);
  }
}

TEST(Format, EncoderNamesComeBack) {
  for (const Encoder encoder : {Encoder::rtn, Encoder::range}) {
    EXPECT_EQ(parse_encoder(encoder_name(encoder)).value(), encoder);
  }
  EXPECT_EQ(parse_encoder("gptq").error().code, ErrorCode::usage);
}

TEST(Format, ChecksBitsGroupsAndTheRowsLength) {
  EXPECT_TRUE(check_format({3, 128}, 384, "w"));
  EXPECT_TRUE(check_format({16, 0}, 7, "w"));
  const std::pair<Format, std::int64_t> bad[] = {{{4, 64}, 96}, {{4, 64}, 0},   {{4, 64}, -64}, {{7, 64}, 64},
                                                 {{4, 48}, 96}, {{16, 64}, 64}, {{4, 0}, 64}};
  for (const auto& [format, in_features] : bad) {
    const Status status = check_format(format, in_features, "model.w");
    ASSERT_FALSE(status) << format.bits << " " << format.group_size << " " << in_features;
    EXPECT_EQ(status.error().code, ErrorCode::bad_input);
    EXPECT_EQ(status.error().message.rfind("model.w: expected ", 0), 0u) << status.error().message;
  }
}

TEST(Format, CountsBytes) {
  EXPECT_EQ(packed_row_words(96, 3), 9);
  EXPECT_EQ(packed_row_words(4, 8), 1);
  // 10 rows: 128·4/8 bytes of weights, and two groups of a scale and a bias.
  EXPECT_EQ(module_bytes(10, 128, {4, 64}, DType::bf16), 10u * (64 + 2 * 2 * 2));
  EXPECT_EQ(module_bytes(10, 128, {4, 64}, DType::f32), 10u * (64 + 2 * 2 * 4));
  EXPECT_EQ(module_bytes(10, 128, {16, 0}, DType::bf16), 10u * 128 * 2);
  // More than 2^32 bytes.
  EXPECT_EQ(module_bytes(1 << 20, 1 << 16, {8, 128}, DType::f16), (1ull << 36) + (1ull << 20) * 512 * 4);
}

}  // namespace
}  // namespace optiq::quant
