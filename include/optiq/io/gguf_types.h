// The types of GGUF: of metadata values and of tensors. Source: ggml's docs/gguf.md (numbers) and the
// published layout of its quantized blocks.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace optiq::io {

enum class GgufValueType : std::uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,  ///< one byte, 0 or 1
  string = 8,   ///< u64 length in bytes, then that many bytes of UTF-8
  array = 9,    ///< u32 element type, u64 count, then the elements
  u64 = 10,
  i64 = 11,
  f64 = 12,
};

/// "u8", "string", …; nullopt for a number that is no value type.
std::optional<std::string_view> gguf_value_type_name(GgufValueType type);

/// Bytes of a value of fixed size; 0 for strings and arrays.
std::uint64_t gguf_value_bytes(GgufValueType type);

/// How a tensor's elements are stored. A quantized row is a sequence of blocks of consecutive elements, each
/// block self-contained and unaligned. In the layouts below all numbers are little-endian, f16 is IEEE
/// binary16, byte offsets count from the start of the block, w[i] is element i of the block (0-based), and
/// bits are numbered from the least significant. Arithmetic is in f32, one rounding an operation, in the
/// order written.
enum class GgufTensorType : std::uint32_t {
  f32 = 0,
  f16 = 1,
  bf16 = 30,

  /// 32 elements, 18 bytes: d f16 @0; qs u8[16] @2. q[i] = low nibble of qs[i], q[i+16] = high nibble (i <
  /// 16). w[i] = d · (q[i] − 8).
  q4_0 = 2,
  /// 32 elements, 20 bytes: d f16 @0; m f16 @2; qs u8[16] @4. q as in q4_0. w[i] = d · q[i] + m.
  q4_1 = 3,
  /// 32 elements, 22 bytes: d f16 @0; qh u32 @2; qs u8[16] @6. Low four bits of q as in q4_0, bit 4 of q[i]
  /// is bit i of qh. w[i] = d · (q[i] − 16).
  q5_0 = 6,
  /// 32 elements, 24 bytes: d f16 @0; m f16 @2; qh u32 @4; qs u8[16] @8. q as in q5_0. w[i] = d · q[i] + m.
  q5_1 = 7,
  /// 32 elements, 34 bytes: d f16 @0; q i8[32] @2. w[i] = q[i] · d.
  q8_0 = 8,

  /// 256 elements in 16 groups of 16, 84 bytes: scales u8[16] @0; qs u8[64] @16; d f16 @80; dmin f16 @82.
  /// Element i = 128·h + 32·s + l (h < 2, s < 4, l < 32) is bits 2s, 2s+1 of qs[32·h + l]; its group is
  /// g = i / 16. w = (d · low nibble of scales[g]) · q − (dmin · high nibble of scales[g]).
  q2_k = 10,
  /// 256 elements in 16 groups of 16, 110 bytes: hmask u8[32] @0; qs u8[64] @32; scales u8[12] @96; d f16
  /// @108. Low two bits of q as in q2_k; bit (4·h + s) of hmask[l] set adds 4. The 6-bit scale of group g:
  /// its low four bits are the low (g < 8) or high nibble of scales[g % 8], its high two are bits 2·(g/4),
  /// 2·(g/4)+1 of scales[8 + g % 4]. w = (d · (scale − 32)) · (q − 4).
  q3_k = 11,
  /// 256 elements in 8 groups of 32, 144 bytes: d f16 @0; dmin f16 @2; scales u8[12] @4; qs u8[128] @16.
  /// Element i = 64·p + 32·s + l (p < 4, s < 2, l < 32) is nibble s (0 = low) of qs[32·p + l]; its group is
  /// g = i / 32. The 6-bit scale and minimum of group g, from scales:
  ///   g < 4: scale = low 6 bits of [g], minimum = low 6 bits of [g + 4];
  ///   g ≥ 4: scale = low nibble of [g + 4] with the top 2 bits of [g − 4] above it,
  ///          minimum = high nibble of [g + 4] with the top 2 bits of [g] above it.
  /// w = (d · scale) · q − (dmin · minimum).
  q4_k = 12,
  /// 256 elements in 8 groups of 32, 176 bytes: d f16 @0; dmin f16 @2; scales u8[12] @4; qh u8[32] @16;
  /// qs u8[128] @48. As q4_k, and bit 4 of q is bit g of qh[l].
  q5_k = 13,
  /// 256 elements in 16 groups of 16, 210 bytes: ql u8[128] @0; qh u8[64] @128; scales i8[16] @192; d f16
  /// @208. Element i = 128·h + 32·s + l (h < 2, s < 4, l < 32): low four bits are nibble s / 2 (0 = low) of
  /// ql[64·h + 32·(s % 2) + l], bits 4 and 5 are bits 2s, 2s+1 of qh[32·h + l]; its group is g = i / 16.
  /// w = (d · scales[g]) · (q − 32).
  q6_k = 14,
  // Numbers of other types are kept as they are: the reader names them, the dequantizer refuses them.
};

struct GgufTensorTypeInfo {
  std::string_view name;  ///< as ggml spells it: "Q4_K"
  std::uint64_t block_elements = 1;
  std::uint64_t block_bytes = 0;
  bool supported = false;  ///< dequantize() can read it
};

/// nullptr for a number that is no tensor type of ggml, or one whose support was removed.
const GgufTensorTypeInfo* find_gguf_tensor_type(GgufTensorType type);

/// "F32, F16, …": the supported types, for error messages and help.
std::string supported_gguf_tensor_types();

}  // namespace optiq::io
