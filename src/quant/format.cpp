#include "optiq/quant/format.h"

#include <algorithm>
#include <charconv>
#include <iterator>

namespace optiq::quant {
namespace {

template <std::size_t n>
bool contains(const int (&choices)[n], int value) {
  return std::find(std::begin(choices), std::end(choices), value) != std::end(choices);
}

bool is_known(Format format) {
  if (format.is_dense()) return format.group_size == 0;
  return contains(kBitChoices, format.bits) && contains(kGroupChoices, format.group_size);
}

bool parse_whole(std::string_view text, int& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

std::string to_string(Format format) {
  return format.is_dense() ? "dense" : fmt::format("{}x{}", format.bits, format.group_size);
}

Result<Format> parse_format(const std::string& text) {
  if (text == "dense") return Format{16, 0};
  const std::size_t cross = text.find('x');
  Format format;
  if (cross != std::string::npos && parse_whole(std::string_view(text).substr(0, cross), format.bits) &&
      parse_whole(std::string_view(text).substr(cross + 1), format.group_size) && !format.is_dense() &&
      is_known(format)) {
    return format;
  }
  return fail(
      ErrorCode::usage,
      "format '{}': expected 'dense' or BITSxGROUP with 2, 3, 4, 5, 6 or 8 bits and groups of 32, 64 or "
      "128, such as 4x64",
      text);
}

Status check_format(Format format, std::int64_t in_features, const std::string& tensor) {
  if (!is_known(format)) {
    return fail(
        ErrorCode::bad_input,
        "{}: expected 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128, got {} bits in groups of {}",
        tensor, format.bits, format.group_size);
  }
  if (!format.is_dense() && (in_features <= 0 || in_features % format.group_size != 0)) {
    return fail(ErrorCode::bad_input,
                "{}: expected in_features to be a multiple of the group size {}, got {}", tensor,
                format.group_size, in_features);
  }
  return {};
}

std::int64_t packed_row_words(std::int64_t in_features, int bits) {
  return in_features / 32 * bits + in_features % 32 * bits / 32;
}

std::uint64_t module_bytes(std::int64_t out_features, std::int64_t in_features, Format format, DType dtype) {
  const auto rows = static_cast<std::uint64_t>(out_features);
  const auto columns = static_cast<std::uint64_t>(in_features);
  if (format.is_dense()) return rows * columns * dtype_bytes(dtype);
  const std::uint64_t groups = columns / static_cast<std::uint64_t>(format.group_size);
  return rows * (4 * static_cast<std::uint64_t>(packed_row_words(in_features, format.bits)) +
                 2 * groups * dtype_bytes(dtype));
}

}  // namespace optiq::quant
