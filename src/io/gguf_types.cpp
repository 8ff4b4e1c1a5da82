#include "optiq/io/gguf_types.h"

#include <array>

namespace optiq::io {
namespace {

struct ValueRow {
  std::string_view name;
  std::uint64_t bytes;
};

constexpr std::array<ValueRow, 13> kValueTypes{{{"u8", 1},
                                                {"i8", 1},
                                                {"u16", 2},
                                                {"i16", 2},
                                                {"u32", 4},
                                                {"i32", 4},
                                                {"f32", 4},
                                                {"boolean", 1},
                                                {"string", 0},
                                                {"array", 0},
                                                {"u64", 8},
                                                {"i64", 8},
                                                {"f64", 8}}};

struct TensorRow {
  std::uint32_t number;
  GgufTensorTypeInfo info;
};

// Block sizes of the unsupported types are listed too, so that a file that holds one is told from a corrupt
// one.
constexpr std::array<TensorRow, 33> kTensorTypes{{
    {0, {"F32", 1, 4, true}},          {1, {"F16", 1, 2, true}},          {2, {"Q4_0", 32, 18, true}},
    {3, {"Q4_1", 32, 20, true}},       {6, {"Q5_0", 32, 22, true}},       {7, {"Q5_1", 32, 24, true}},
    {8, {"Q8_0", 32, 34, true}},       {9, {"Q8_1", 32, 36, false}},      {10, {"Q2_K", 256, 84, true}},
    {11, {"Q3_K", 256, 110, true}},    {12, {"Q4_K", 256, 144, true}},    {13, {"Q5_K", 256, 176, true}},
    {14, {"Q6_K", 256, 210, true}},    {15, {"Q8_K", 256, 292, false}},   {16, {"IQ2_XXS", 256, 66, false}},
    {17, {"IQ2_XS", 256, 74, false}},  {18, {"IQ3_XXS", 256, 98, false}}, {19, {"IQ1_S", 256, 50, false}},
    {20, {"IQ4_NL", 32, 18, false}},   {21, {"IQ3_S", 256, 110, false}},  {22, {"IQ2_S", 256, 82, false}},
    {23, {"IQ4_XS", 256, 136, false}}, {24, {"I8", 1, 1, false}},         {25, {"I16", 1, 2, false}},
    {26, {"I32", 1, 4, false}},        {27, {"I64", 1, 8, false}},        {28, {"F64", 1, 8, false}},
    {29, {"IQ1_M", 256, 56, false}},   {30, {"BF16", 1, 2, true}},        {34, {"TQ1_0", 256, 54, false}},
    {35, {"TQ2_0", 256, 66, false}},   {39, {"MXFP4", 32, 17, false}},    {40, {"NVFP4", 64, 36, false}},
}};

}  // namespace

std::optional<std::string_view> gguf_value_type_name(GgufValueType type) {
  const auto number = static_cast<std::size_t>(type);
  if (number >= kValueTypes.size()) return std::nullopt;
  return kValueTypes[number].name;
}

std::uint64_t gguf_value_bytes(GgufValueType type) {
  return kValueTypes[static_cast<std::size_t>(type)].bytes;
}

const GgufTensorTypeInfo* find_gguf_tensor_type(GgufTensorType type) {
  for (const TensorRow& row : kTensorTypes) {
    if (row.number == static_cast<std::uint32_t>(type)) return &row.info;
  }
  return nullptr;
}

std::string supported_gguf_tensor_types() {
  std::string names;
  for (const TensorRow& row : kTensorTypes) {
    if (!row.info.supported) continue;
    if (!names.empty()) names += ", ";
    names += row.info.name;
  }
  return names;
}

}  // namespace optiq::io
