#include "optiq/io/gguf_dequantize.h"

#include <cstring>

#include "gguf_dequantize_blocks.h"

namespace optiq::io {
namespace {

void copy_f32(const std::byte* block, float* out) {
  std::memcpy(out, block, sizeof *out);
}

void widen_f16(const std::byte* block, float* out) {
  *out = load_f16(block);
}

void widen_bf16(const std::byte* block, float* out) {
  std::uint16_t bits;
  std::memcpy(&bits, block, sizeof bits);
  *out = bf16_to_f32(bits);
}

DequantizeBlock find_dequantizer(GgufTensorType type) {
  switch (type) {
    case GgufTensorType::f32:
      return copy_f32;
    case GgufTensorType::f16:
      return widen_f16;
    case GgufTensorType::bf16:
      return widen_bf16;
    case GgufTensorType::q4_0:
      return dequantize_q4_0;
    case GgufTensorType::q4_1:
      return dequantize_q4_1;
    case GgufTensorType::q5_0:
      return dequantize_q5_0;
    case GgufTensorType::q5_1:
      return dequantize_q5_1;
    case GgufTensorType::q8_0:
      return dequantize_q8_0;
    case GgufTensorType::q2_k:
      return dequantize_q2_k;
    case GgufTensorType::q3_k:
      return dequantize_q3_k;
    case GgufTensorType::q4_k:
      return dequantize_q4_k;
    case GgufTensorType::q5_k:
      return dequantize_q5_k;
    case GgufTensorType::q6_k:
      return dequantize_q6_k;
  }
  return nullptr;
}

}  // namespace

Status dequantize(GgufTensorType type, std::span<const std::byte> blocks, std::span<float> out) {
  const GgufTensorTypeInfo* info = find_gguf_tensor_type(type);
  const DequantizeBlock dequantizer = find_dequantizer(type);
  if (info == nullptr || dequantizer == nullptr) {
    return fail(ErrorCode::bad_input, "GGUF tensor type {} cannot be read; expected one of {}",
                info != nullptr ? info->name : std::to_string(static_cast<std::uint32_t>(type)),
                supported_gguf_tensor_types());
  }
  const std::size_t count = out.size() / info->block_elements;
  if (out.size() % info->block_elements != 0 || blocks.size() / info->block_bytes != count ||
      blocks.size() % info->block_bytes != 0) {
    return fail(ErrorCode::bad_input,
                "{}: expected blocks of {} bytes for every {} elements, got {} bytes for {}", info->name,
                info->block_bytes, info->block_elements, blocks.size(), out.size());
  }
  for (std::size_t i = 0; i < count; ++i)
    dequantizer(blocks.data() + i * info->block_bytes, out.data() + i * info->block_elements);
  return {};
}

}  // namespace optiq::io
