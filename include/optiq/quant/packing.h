// The bit stream of one row (format.h), both ways.
#pragma once

#include <cstdint>
#include <span>

namespace optiq::quant {

/// Packs values (each < 2^bits; count·bits a multiple of 32) into words. words.size() = count·bits/32.
void pack_row(std::span<const std::uint8_t> values, int bits, std::span<std::uint32_t> words);

/// Inverse of pack_row. values.size() = words.size()·32/bits.
void unpack_row(std::span<const std::uint32_t> words, int bits, std::span<std::uint8_t> values);

}  // namespace optiq::quant
