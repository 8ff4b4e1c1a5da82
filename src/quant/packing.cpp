#include "optiq/quant/packing.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace optiq::quant {
namespace {

static_assert(std::endian::native == std::endian::little, "words are stored as they lie in memory");

// Eight values of `bits` bits fill exactly `bits` bytes, so a row falls into independent runs of eight; only
// rows of 4 or 12, … values of 8 bits end in a shorter run.
constexpr std::size_t kRun = 8;

}  // namespace

void pack_row(std::span<const std::uint8_t> values, int bits, std::span<std::uint32_t> words) {
  auto* bytes = reinterpret_cast<std::byte*>(words.data());
  for (std::size_t begin = 0; begin < values.size(); begin += kRun) {
    const std::size_t count = std::min(kRun, values.size() - begin);
    std::uint64_t run = 0;
    for (std::size_t i = 0; i < count; ++i) {
      run |= static_cast<std::uint64_t>(values[begin + i]) << (i * static_cast<std::size_t>(bits));
    }
    const std::size_t run_bytes = count * static_cast<std::size_t>(bits) / 8;
    std::memcpy(bytes, &run, run_bytes);
    bytes += run_bytes;
  }
}

void unpack_row(std::span<const std::uint32_t> words, int bits, std::span<std::uint8_t> values) {
  const auto* bytes = reinterpret_cast<const std::byte*>(words.data());
  const std::uint64_t mask = (1u << bits) - 1;
  for (std::size_t begin = 0; begin < values.size(); begin += kRun) {
    const std::size_t count = std::min(kRun, values.size() - begin);
    const std::size_t run_bytes = count * static_cast<std::size_t>(bits) / 8;
    std::uint64_t run = 0;
    std::memcpy(&run, bytes, run_bytes);
    bytes += run_bytes;
    for (std::size_t i = 0; i < count; ++i) {
      values[begin + i] = static_cast<std::uint8_t>((run >> (i * static_cast<std::size_t>(bits))) & mask);
    }
  }
}

}  // namespace optiq::quant
