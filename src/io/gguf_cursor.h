// Reads little-endian values off the front of untrusted bytes; private to the GGUF reader.
#pragma once

#include <bit>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "optiq/base/result.h"

namespace optiq::io {

static_assert(std::endian::native == std::endian::little, "values are copied as they lie in the file");

/// `text` fit for an error message: control characters and bytes above ASCII escaped, cut at 80 bytes.
std::string printable(std::string_view text);

template <class T>
T load(std::span<const std::byte> bytes, std::size_t offset = 0) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

class GgufCursor {
 public:
  GgufCursor(std::span<const std::byte> bytes, std::string_view where) : bytes_(bytes), where_(where) {}

  [[nodiscard]] std::uint64_t offset() const { return offset_; }
  [[nodiscard]] std::uint64_t remaining() const { return bytes_.size() - offset_; }

  /// The next `count` bytes; `what` names them where they are not there.
  Result<std::span<const std::byte>> take(std::uint64_t count, std::string_view what) {
    if (count > remaining()) {
      return fail(ErrorCode::bad_input,
                  "{}: {} at offset {}: expected {} bytes, got {} to the end of the file", where_, what,
                  offset_, count, remaining());
    }
    const auto taken = bytes_.subspan(offset_, count);
    offset_ += count;
    return taken;
  }

  template <class T>
  Result<T> read(std::string_view what) {
    OPTIQ_TRY(const auto bytes, take(sizeof(T), what));
    return load<T>(bytes);
  }

  /// A string of 1 to `limit` bytes.
  Result<std::string> name(std::uint64_t limit, std::string_view what) {
    const std::uint64_t start = offset_;
    OPTIQ_TRY(const auto length, read<std::uint64_t>(what));
    if (length == 0 || length > limit) {
      return fail(ErrorCode::bad_input, "{}: {} at offset {}: expected a length of 1 to {} bytes, got {}",
                  where_, what, start, limit, length);
    }
    OPTIQ_TRY(const auto bytes, take(length, what));
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

 private:
  std::span<const std::byte> bytes_;
  std::string_view where_;
  std::uint64_t offset_ = 0;
};

}  // namespace optiq::io
