#include "optiq/io/gguf_dequantize.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>

#include "optiq/base/half.h"
#include "optiq/base/random.h"
#include "optiq/io/gguf.h"

namespace optiq::io {
namespace {

using Type = GgufTensorType;
using Block = std::vector<std::uint8_t>;

/// A value as it is meant, in double, and the sum of the magnitudes of its terms (what rounding errors scale
/// with).
struct Exact {
  double value = 0;
  double magnitude = 0;
};

double half_at(const Block& block, std::size_t at) {
  return f16_to_f32(static_cast<std::uint16_t>(block[at] | block[at + 1] << 8));
}

int bit(const Block& block, std::size_t byte, int number) {
  return block[byte] >> number & 1;
}

Exact affine(double scale, int q, double offset) {
  return {scale * q + offset, std::abs(scale * q) + std::abs(offset)};
}

/// Bits [first, first + count) of a little-endian bit string that begins at `byte`.
int bits_at(const Block& block, std::size_t byte, int first, int count) {
  int value = 0;
  for (int k = 0; k < count; ++k)
    value |= bit(block, byte + static_cast<std::size_t>((first + k) / 8), (first + k) % 8) << k;
  return value;
}

/// The 32-element types: four bits a value, of which the second half of the block uses the upper nibbles.
Exact reference_32(Type type, const Block& block, int i) {
  const double d = half_at(block, 0);
  if (type == Type::q8_0) {
    const int byte = block[static_cast<std::size_t>(2 + i)];
    return affine(d, byte < 128 ? byte : byte - 256, 0);
  }
  const bool has_minimum = type == Type::q4_1 || type == Type::q5_1;
  const bool five = type == Type::q5_0 || type == Type::q5_1;
  const std::size_t high = has_minimum ? 4 : 2;
  const std::size_t low = high + (five ? 4 : 0);
  int q = bits_at(block, low, 8 * (i % 16) + 4 * (i / 16), 4);
  if (five) q += 16 * bits_at(block, high, i, 1);
  return affine(d, has_minimum ? q : q - (five ? 16 : 8), has_minimum ? half_at(block, 2) : 0.0);
}

/// Scale and minimum of Q4_K and Q5_K, written out group by group.
std::pair<int, int> scale_and_minimum(const Block& block, int group) {
  const auto low_six = [&](int byte) { return bits_at(block, 4, 8 * byte, 6); };
  const auto top_two = [&](int byte) { return bits_at(block, 4, 8 * byte + 6, 2); };
  if (group < 4) return {low_six(group), low_six(group + 4)};
  return {bits_at(block, 4, 8 * (group + 4), 4) + 16 * top_two(group - 4),
          bits_at(block, 4, 8 * (group + 4) + 4, 4) + 16 * top_two(group)};
}

Exact reference_k(Type type, const Block& block, int i) {
  const int half = i / 128, field = i / 32 % 4, lane = i % 32;
  const int two_bit_first = 8 * (32 * half + lane) + 2 * field;
  const int four_bit_first = 8 * (32 * (i / 64) + lane) + 4 * (i / 32 % 2);
  switch (type) {
    case Type::q2_k: {
      const int scale = bits_at(block, 0, 8 * (i / 16), 4);
      const int minimum = bits_at(block, 0, 8 * (i / 16) + 4, 4);
      return affine(half_at(block, 80) * scale, bits_at(block, 16, two_bit_first, 2),
                    -half_at(block, 82) * minimum);
    }
    case Type::q3_k: {
      const int g = i / 16;
      const int scale = bits_at(block, 96, 8 * (g % 8) + 4 * (g / 8), 4) +
                        16 * bits_at(block, 104, 8 * (g % 4) + 2 * (g / 4), 2);
      const int q =
          bits_at(block, 32, two_bit_first, 2) - 4 + 4 * bit(block, static_cast<std::size_t>(lane), i / 32);
      return affine(half_at(block, 108) * (scale - 32), q, 0);
    }
    case Type::q4_k:
    case Type::q5_k: {
      const auto [scale, minimum] = scale_and_minimum(block, i / 32);
      const bool five = type == Type::q5_k;
      int q = bits_at(block, five ? 48 : 16, four_bit_first, 4);
      if (five) q += 16 * bit(block, static_cast<std::size_t>(16 + lane), i / 32);
      return affine(half_at(block, 0) * scale, q, -half_at(block, 2) * minimum);
    }
    default: {
      const int low = bits_at(block, 0, 8 * (64 * half + 32 * (field % 2) + lane) + 4 * (field / 2), 4);
      const int q = low + 16 * bits_at(block, 128, two_bit_first, 2) - 32;
      const int scale = block[static_cast<std::size_t>(192 + i / 16)];
      return affine(half_at(block, 208) * (scale < 128 ? scale : scale - 256), q, 0);
    }
  }
}

struct Case {
  Type type;
  std::vector<std::size_t> halves;  ///< where the f16 fields lie
};

const std::vector<Case> kCases{{Type::q4_0, {0}},    {Type::q4_1, {0, 2}}, {Type::q5_0, {0}},
                               {Type::q5_1, {0, 2}}, {Type::q8_0, {0}},    {Type::q2_k, {80, 82}},
                               {Type::q3_k, {108}},  {Type::q4_k, {0, 2}}, {Type::q5_k, {0, 2}},
                               {Type::q6_k, {208}}};

Block random_block(Random& random, const Case& test) {
  Block block(find_gguf_tensor_type(test.type)->block_bytes);
  for (auto& byte : block) byte = static_cast<std::uint8_t>(random.next());
  for (const std::size_t at : test.halves) {
    const std::uint16_t half = f32_to_f16(static_cast<float>(random.normal()));
    block[at] = static_cast<std::uint8_t>(half);
    block[at + 1] = static_cast<std::uint8_t>(half >> 8);
  }
  return block;
}

TEST(GgufDequantize, EqualsThePythonPackageToTheBit) {
  const auto file = GgufFile::open(OPTIQ_TEST_DATA "/goldens/gguf_golden.gguf");
  ASSERT_TRUE(file) << file.error().message;
  int compared = 0;
  for (const GgufTensor& tensor : file->tensors()) {
    if (!tensor.name.ends_with(".blocks")) continue;
    const GgufTensor* expected = file->find(tensor.name.substr(0, tensor.name.size() - 7) + ".expected");
    ASSERT_NE(expected, nullptr);
    std::vector<float> got(expected->bytes.size() / 4, std::nanf(""));
    const Status status = dequantize(tensor.type, tensor.bytes, got);
    ASSERT_TRUE(status) << status.error().message;
    EXPECT_EQ(std::memcmp(got.data(), expected->bytes.data(), expected->bytes.size()), 0) << tensor.name;
    ++compared;
  }
  EXPECT_EQ(compared, 12);
}

// Two roundings of the scale's and minimum's products, one of each product with q and one of the sum: at most
// three a term, each of 2^-24 of the terms' magnitudes (and terms of second order).
TEST(GgufDequantize, IsCloseToADoublePrecisionReference) {
  Random random(std::random_device{}());
  for (const Case& test : kCases) {
    const int elements = static_cast<int>(find_gguf_tensor_type(test.type)->block_elements);
    for (int round = 0; round < 50; ++round) {
      const Block block = random_block(random, test);
      std::vector<float> got(static_cast<std::size_t>(elements), std::nanf(""));
      ASSERT_TRUE(dequantize(test.type, std::as_bytes(std::span(block)), got));
      for (int i = 0; i < elements; ++i) {
        const Exact want =
            elements == 32 ? reference_32(test.type, block, i) : reference_k(test.type, block, i);
        ASSERT_NEAR(got[static_cast<std::size_t>(i)], want.value, 3.001 * 0x1p-24 * want.magnitude)
            << find_gguf_tensor_type(test.type)->name << " element " << i;
      }
    }
  }
}

TEST(GgufDequantize, ReadsBlocksThatAreNotAligned) {
  Random random(std::random_device{}());
  for (const Case& test : kCases) {
    const Block block = random_block(random, test);
    Block shifted(block.size() + 1);
    std::copy(block.begin(), block.end(), shifted.begin() + 1);
    const auto elements = find_gguf_tensor_type(test.type)->block_elements;
    std::vector<float> aligned(elements), unaligned(elements, std::nanf(""));
    ASSERT_TRUE(dequantize(test.type, std::as_bytes(std::span(block)), aligned));
    ASSERT_TRUE(dequantize(test.type, std::as_bytes(std::span(shifted)).subspan(1), unaligned));
    EXPECT_EQ(aligned, unaligned);
  }
}

TEST(GgufDequantize, RefusesWhatItCannotRead) {
  std::vector<std::byte> bytes(18);
  std::vector<float> out(32);
  EXPECT_TRUE(dequantize(Type::q4_0, bytes, out));
  const auto refusal = [&](Type type, std::size_t size, std::size_t elements) {
    const Status status = dequantize(type, std::span(bytes).first(size), std::span(out).first(elements));
    return status ? std::string() : status.error().message;
  };
  EXPECT_NE(refusal(Type::q4_0, 17, 32).find("17 bytes for 32"), std::string::npos);
  EXPECT_NE(refusal(Type::q4_0, 18, 31).find("18 bytes for 31"), std::string::npos);
  EXPECT_NE(refusal(static_cast<Type>(16), 18, 32).find("IQ2_XXS"), std::string::npos);
  EXPECT_NE(refusal(static_cast<Type>(77), 18, 32).find("77"), std::string::npos);
}

}  // namespace
}  // namespace optiq::io
