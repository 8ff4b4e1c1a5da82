#include "optiq/base/dtype.h"

#include <array>

namespace optiq {
namespace {

struct Row {
  std::string_view name;
  std::size_t bytes;
};

constexpr std::array<Row, 13> kRows{{{"BOOL", 1},
                                     {"U8", 1},
                                     {"I8", 1},
                                     {"U16", 2},
                                     {"I16", 2},
                                     {"U32", 4},
                                     {"I32", 4},
                                     {"U64", 8},
                                     {"I64", 8},
                                     {"F16", 2},
                                     {"BF16", 2},
                                     {"F32", 4},
                                     {"F64", 8}}};

const Row& row(DType dtype) {
  return kRows[static_cast<std::size_t>(dtype)];
}

}  // namespace

std::size_t dtype_bytes(DType dtype) {
  return row(dtype).bytes;
}

std::string_view dtype_name(DType dtype) {
  return row(dtype).name;
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (std::size_t i = 0; i < kRows.size(); ++i) {
    if (kRows[i].name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

bool is_float_dtype(DType dtype) {
  return dtype == DType::f16 || dtype == DType::bf16 || dtype == DType::f32;
}

}  // namespace optiq
