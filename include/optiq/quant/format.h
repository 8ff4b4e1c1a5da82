// MLX's affine group-wise format, and its exact sizes.
//
// A weight matrix is [out, in], in a multiple of group_size. Each row is cut into groups of group_size
// consecutive inputs; a group has one scale s and one bias b in the model's dtype, and w ≈ q·s + b with q in
// [0, 2^bits − 1].
//   weight  U32   [out, in·bits/32]     the q of a row as one contiguous little-endian bit stream, least
//   significant
//                                       bit first, value i at bits [i·bits, (i+1)·bits)
//   scales  dtype [out, in/group_size]
//   biases  dtype [out, in/group_size]
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "optiq/base/dtype.h"
#include "optiq/base/result.h"

namespace optiq::quant {

/// bits = 16 stands for "left as it is" (group_size is then 0).
struct Format {
  int bits = 4;
  int group_size = 64;

  [[nodiscard]] bool is_dense() const { return bits == 16; }
  friend bool operator==(const Format&, const Format&) = default;
  friend auto operator<=>(const Format&, const Format&) = default;
};

inline constexpr int kBitChoices[] = {2, 3, 4, 5, 6, 8};
inline constexpr int kGroupChoices[] = {32, 64, 128};

/// "4x64" for 4 bits in groups of 64, "dense" for 16.
std::string to_string(Format format);
/// Inverse of to_string; usage error otherwise.
Result<Format> parse_format(const std::string& text);

/// bad_input (naming `tensor`) unless bits and group are MLX's and `in_features` is a positive multiple of
/// group_size. Dense (16 bits, group 0) passes.
Status check_format(Format format, std::int64_t in_features, const std::string& tensor);

/// u32 words of one packed row: in·bits/32.
std::int64_t packed_row_words(std::int64_t in_features, int bits);

/// Bytes of weight + scales + biases of [out, in] at `format`, scales in `dtype`; for a dense format
/// out·in·dtype.
std::uint64_t module_bytes(std::int64_t out_features, std::int64_t in_features, Format format, DType dtype);

/// One quantized matrix as it is stored.
struct QuantizedMatrix {
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  Format format;
  DType dtype = DType::bf16;          ///< of scales and biases
  std::vector<std::uint32_t> weight;  ///< [out, in·bits/32]
  std::vector<std::byte> scales;      ///< [out, in/group] of dtype
  std::vector<std::byte> biases;      ///< likewise
};

}  // namespace optiq::quant
