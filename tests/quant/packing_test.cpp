#include "optiq/quant/packing.h"

#include <gtest/gtest.h>

#include <vector>

#include "optiq/base/random.h"
#include "optiq/quant/format.h"
#include "support/seed.h"

namespace optiq::quant {
namespace {

/// The definition in format.h, one bit at a time.
std::vector<std::uint32_t> pack_bit_by_bit(const std::vector<std::uint8_t>& values, int bits) {
  std::vector<std::uint32_t> words(values.size() * static_cast<std::size_t>(bits) / 32);
  std::size_t position = 0;
  for (const std::uint8_t value : values) {
    for (int bit = 0; bit < bits; ++bit, ++position) {
      words[position / 32] |= static_cast<std::uint32_t>(value >> bit & 1) << (position % 32);
    }
  }
  return words;
}

std::vector<std::uint8_t> random_values(Random& random, std::size_t count, int bits) {
  std::vector<std::uint8_t> values(count);
  for (std::uint8_t& value : values) value = static_cast<std::uint8_t>(random.below(1ull << bits));
  return values;
}

TEST(Packing, MatchesTheBitStreamAndComesBack) {
  Random random(test::seed());
  for (const int bits : kBitChoices) {
    for (std::size_t count = 4; count <= 300; count += 4) {
      if (count * static_cast<std::size_t>(bits) % 32 != 0) continue;
      const std::vector<std::uint8_t> values = random_values(random, count, bits);
      const std::vector<std::uint32_t> expected = pack_bit_by_bit(values, bits);
      // One word more than needed shows writes past the end.
      std::vector<std::uint32_t> words(expected.size() + 1, 0xdeadbeefu);
      pack_row(values, bits, std::span(words).first(expected.size()));
      EXPECT_EQ(words.back(), 0xdeadbeefu);
      words.pop_back();
      EXPECT_EQ(words, expected) << bits << " bits, " << count << " values";
      std::vector<std::uint8_t> back(count + 1, 0xaa);
      unpack_row(words, bits, std::span(back).first(count));
      EXPECT_EQ(back.back(), 0xaa);
      back.pop_back();
      EXPECT_EQ(back, values) << bits << " bits, " << count << " values";
    }
  }
}

}  // namespace
}  // namespace optiq::quant
