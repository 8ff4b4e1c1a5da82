#include <charconv>
#include <cmath>
#include <cstdlib>

#include "gguf_cursor.h"
#include "optiq/io/gguf.h"

namespace optiq::io {
namespace {

/// The bytes that a UTF-8 sequence beginning with `first` has; 0 where none begins so.
std::size_t sequence_length(unsigned char first) {
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return 2;
  if (first >= 0xe0 && first <= 0xef) return 3;
  if (first >= 0xf0 && first <= 0xf4) return 4;
  return 0;
}

/// Table 3-7 of the Unicode standard: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    const auto first = static_cast<unsigned char>(text[i]);
    const std::size_t length = sequence_length(first);
    if (length == 0 || length > text.size() - i) return false;
    for (std::size_t k = 1; k < length; ++k) {
      unsigned char low = 0x80, high = 0xbf;
      if (k == 1 && first == 0xe0) low = 0xa0;
      if (k == 1 && first == 0xed) high = 0x9f;
      if (k == 1 && first == 0xf0) low = 0x90;
      if (k == 1 && first == 0xf4) high = 0x8f;
      const auto byte = static_cast<unsigned char>(text[i + k]);
      if (byte < low || byte > high) return false;
    }
    i += length;
  }
  return true;
}

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// nullopt for a type that is no integer, and for a u64 above 2^63 − 1.
std::optional<std::int64_t> load_integer(GgufValueType type, std::span<const std::byte> bytes,
                                         std::size_t at) {
  switch (type) {
    case GgufValueType::u8:
      return load<std::uint8_t>(bytes, at);
    case GgufValueType::i8:
      return load<std::int8_t>(bytes, at);
    case GgufValueType::u16:
      return load<std::uint16_t>(bytes, at);
    case GgufValueType::i16:
      return load<std::int16_t>(bytes, at);
    case GgufValueType::u32:
      return load<std::uint32_t>(bytes, at);
    case GgufValueType::i32:
      return load<std::int32_t>(bytes, at);
    case GgufValueType::i64:
      return load<std::int64_t>(bytes, at);
    case GgufValueType::u64: {
      const auto value = load<std::uint64_t>(bytes, at);
      if (value > static_cast<std::uint64_t>(INT64_MAX)) return std::nullopt;
      return static_cast<std::int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

/// nullopt for a type that is no number, and for a value that is not finite.
std::optional<double> load_number(GgufValueType type, std::span<const std::byte> bytes, std::size_t at) {
  double value = 0;
  if (type == GgufValueType::f32) {
    value = shortest_decimal(load<float>(bytes, at));
  } else if (type == GgufValueType::f64) {
    value = load<double>(bytes, at);
  } else {
    const auto integer = load_integer(type, bytes, at);
    if (!integer) return std::nullopt;
    value = static_cast<double>(*integer);
  }
  if (!std::isfinite(value)) return std::nullopt;
  return value;
}

}  // namespace

double shortest_decimal(float value) {
  char text[64];
  const auto written = std::to_chars(std::begin(text), std::end(text) - 1, value);
  *written.ptr = '\0';
  return std::strtod(text, nullptr);
}

std::string GgufMetadata::describe(std::string_view key, const GgufValue& value) const {
  return fmt::format("{}: key \"{}\" at offset {}", where_, printable(key), value.offset);
}

Result<const GgufValue*> GgufMetadata::find(std::string_view key, std::string_view expected) const {
  const auto found = values_.find(key);
  if (found == values_.end())
    return fail(ErrorCode::bad_input, "{}: key \"{}\": expected {}, but it is missing", where_,
                printable(key), expected);
  return &found->second;
}

Result<const GgufValue*> GgufMetadata::find_array(std::string_view key, std::string_view expected) const {
  OPTIQ_TRY(const GgufValue* value, find(key, expected));
  if (value->type == GgufValueType::array) return value;
  return fail(ErrorCode::bad_input, "{}: expected {}, got a value of type {}", describe(key, *value),
              expected, *gguf_value_type_name(value->type));
}

Result<std::int64_t> GgufMetadata::integer(std::string_view key) const {
  OPTIQ_TRY(const GgufValue* value, find(key, "an integer"));
  const auto integer = load_integer(value->type, value->payload, 0);
  if (integer) return *integer;
  return fail(ErrorCode::bad_input, "{}: expected an integer below 2^63, got a value of type {}",
              describe(key, *value), *gguf_value_type_name(value->type));
}

Result<double> GgufMetadata::number(std::string_view key) const {
  OPTIQ_TRY(const GgufValue* value, find(key, "a number"));
  const auto number = load_number(value->type, value->payload, 0);
  if (number) return *number;
  return fail(ErrorCode::bad_input, "{}: expected a finite number, got a value of type {}",
              describe(key, *value), *gguf_value_type_name(value->type));
}

Result<bool> GgufMetadata::boolean(std::string_view key) const {
  OPTIQ_TRY(const GgufValue* value, find(key, "a boolean"));
  if (value->type == GgufValueType::boolean) return value->payload[0] == std::byte{1};
  return fail(ErrorCode::bad_input, "{}: expected a boolean, got a value of type {}", describe(key, *value),
              *gguf_value_type_name(value->type));
}

Result<std::string> GgufMetadata::string(std::string_view key) const {
  OPTIQ_TRY(const GgufValue* value, find(key, "a string"));
  if (value->type != GgufValueType::string) {
    return fail(ErrorCode::bad_input, "{}: expected a string, got a value of type {}", describe(key, *value),
                *gguf_value_type_name(value->type));
  }
  const std::string_view text = as_text(value->payload);
  if (!is_utf8(text)) {
    return fail(ErrorCode::bad_input, "{}: expected UTF-8, got \"{}\"", describe(key, *value),
                printable(text));
  }
  return std::string(text);
}

Result<std::int64_t> GgufMetadata::integer_or(std::string_view key, std::int64_t fallback) const {
  return has(key) ? integer(key) : Result<std::int64_t>(fallback);
}

Result<double> GgufMetadata::number_or(std::string_view key, double fallback) const {
  return has(key) ? number(key) : Result<double>(fallback);
}

Result<bool> GgufMetadata::boolean_or(std::string_view key, bool fallback) const {
  return has(key) ? boolean(key) : Result<bool>(fallback);
}

Result<std::string> GgufMetadata::string_or(std::string_view key, std::string_view fallback) const {
  return has(key) ? string(key) : Result<std::string>(std::string(fallback));
}

Result<std::vector<std::string>> GgufMetadata::strings(std::string_view key) const {
  OPTIQ_TRY(const GgufValue* value, find_array(key, "an array of strings"));
  if (value->element != GgufValueType::string) {
    return fail(ErrorCode::bad_input, "{}: expected an array of strings, got one of {}",
                describe(key, *value), *gguf_value_type_name(value->element));
  }
  std::vector<std::string> out;
  std::size_t at = 0;
  while (at < value->payload.size()) {
    const auto length = load<std::uint64_t>(value->payload, at);
    const std::string_view text = as_text(value->payload.subspan(at + sizeof length, length));
    if (!is_utf8(text)) {
      return fail(ErrorCode::bad_input, "{}: element {}: expected UTF-8, got \"{}\"", describe(key, *value),
                  out.size(), printable(text));
    }
    out.emplace_back(text);
    at += sizeof length + length;
  }
  return out;
}

Result<std::vector<std::int64_t>> GgufMetadata::integers(std::string_view key) const {
  OPTIQ_TRY(const GgufValue* value, find_array(key, "an array of integers"));
  std::vector<std::int64_t> out;
  for (std::uint64_t i = 0; i < value->count; ++i) {
    const auto integer = load_integer(value->element, value->payload, i * gguf_value_bytes(value->element));
    if (!integer) {
      return fail(ErrorCode::bad_input,
                  "{}: element {}: expected an integer below 2^63, got a value of type {}",
                  describe(key, *value), i, *gguf_value_type_name(value->element));
    }
    out.push_back(*integer);
  }
  return out;
}

Result<std::vector<double>> GgufMetadata::numbers(std::string_view key) const {
  OPTIQ_TRY(const GgufValue* value, find_array(key, "an array of numbers"));
  std::vector<double> out;
  for (std::uint64_t i = 0; i < value->count; ++i) {
    const auto number = load_number(value->element, value->payload, i * gguf_value_bytes(value->element));
    if (!number) {
      return fail(ErrorCode::bad_input, "{}: element {}: expected a finite number, got a value of type {}",
                  describe(key, *value), i, *gguf_value_type_name(value->element));
    }
    out.push_back(*number);
  }
  return out;
}

}  // namespace optiq::io
