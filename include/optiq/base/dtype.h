// Element types of stored tensors.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace optiq {

enum class DType { boolean, u8, i8, u16, i16, u32, i32, u64, i64, f16, bf16, f32, f64 };

/// Bytes of one element.
std::size_t dtype_bytes(DType dtype);

/// The safetensors name: "BOOL", "U8", … "F16", "BF16", "F32", "F64".
std::string_view dtype_name(DType dtype);

/// Inverse of dtype_name; nullopt for a name that is not in the list above (F8_E4M3, for one).
std::optional<DType> dtype_from_name(std::string_view name);

/// f16, bf16 or f32: what weights, scales and biases may be stored in.
bool is_float_dtype(DType dtype);

}  // namespace optiq
