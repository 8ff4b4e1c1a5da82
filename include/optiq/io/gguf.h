// A reader of GGUF files, versions 2 and 3, little-endian. Source: ggml's docs/gguf.md.
//
// Layout: "GGUF", u32 version, u64 tensor count, u64 metadata count; the metadata (key, u32 value type,
// value); the tensor infos (name, u32 rank, u64 extents with the fastest-running first, u32 type, u64 offset
// into the data); zero padding to the next multiple of the alignment (general.alignment, 32 where it is
// missing); the tensor data, every offset a multiple of the alignment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "optiq/base/file.h"
#include "optiq/base/result.h"
#include "optiq/io/gguf_types.h"

namespace optiq::io {

/// A metadata value where it lies in the file, its extent already checked.
struct GgufValue {
  GgufValueType type = GgufValueType::u8;
  GgufValueType element = GgufValueType::u8;  ///< of an array: any type but array
  std::uint64_t count = 1;                    ///< elements of an array
  std::span<const std::byte> payload;         ///< the scalar, the string's bytes, or the array's elements
  std::uint64_t offset = 0;                   ///< of the payload, from the start of the file
};

/// Typed access to the metadata. Every error is bad_input and names the file, the key, its offset, the type
/// that was expected and the one that came. Strings that are not valid UTF-8 and numbers that are not finite
/// are refused here.
class GgufMetadata {
 public:
  GgufMetadata() = default;
  GgufMetadata(std::map<std::string, GgufValue, std::less<>> values, std::string where)
      : values_(std::move(values)), where_(std::move(where)) {}

  [[nodiscard]] bool has(std::string_view key) const { return values_.contains(key); }

  /// Any integer type whose value fits.
  [[nodiscard]] Result<std::int64_t> integer(std::string_view key) const;
  /// f32, f64 or any integer. An f32 is read as the decimal it was most likely written from (see
  /// shortest_decimal): 1e-5f gives 1e-5.
  [[nodiscard]] Result<double> number(std::string_view key) const;
  [[nodiscard]] Result<bool> boolean(std::string_view key) const;
  [[nodiscard]] Result<std::string> string(std::string_view key) const;

  /// As above, with a value for a key that is missing.
  [[nodiscard]] Result<std::int64_t> integer_or(std::string_view key, std::int64_t fallback) const;
  [[nodiscard]] Result<double> number_or(std::string_view key, double fallback) const;
  [[nodiscard]] Result<bool> boolean_or(std::string_view key, bool fallback) const;
  [[nodiscard]] Result<std::string> string_or(std::string_view key, std::string_view fallback) const;

  /// Arrays, decoded. The memory is a small multiple of the array's bytes in the file.
  [[nodiscard]] Result<std::vector<std::string>> strings(std::string_view key) const;
  [[nodiscard]] Result<std::vector<std::int64_t>> integers(std::string_view key) const;
  [[nodiscard]] Result<std::vector<double>> numbers(std::string_view key) const;

  [[nodiscard]] const std::map<std::string, GgufValue, std::less<>>& values() const { return values_; }

 private:
  [[nodiscard]] Result<const GgufValue*> find(std::string_view key, std::string_view expected) const;
  [[nodiscard]] Result<const GgufValue*> find_array(std::string_view key, std::string_view expected) const;
  [[nodiscard]] std::string describe(std::string_view key, const GgufValue& value) const;

  std::map<std::string, GgufValue, std::less<>> values_;
  std::string where_;
};

/// The double whose shortest decimal spelling is that of `value`: what to write as JSON for a number that
/// went through f32.
double shortest_decimal(float value);

/// A tensor where it lies in the file.
struct GgufTensor {
  std::string name;
  GgufTensorType type = GgufTensorType::f32;
  std::vector<std::int64_t> shape;   ///< row-major, slowest first (the file's order reversed); extents ≥ 1
  std::span<const std::byte> bytes;  ///< exactly the blocks of all elements
  std::uint64_t offset = 0;          ///< from the start of the file
};

/// An open file; cheap to copy is not promised, moving is. Checked before anything is allocated for it:
/// counts and lengths against the bytes that are left, products against overflow, types, duplicate keys and
/// tensors, rows that are no whole number of blocks, offsets (aligned, inside the file, no two tensors
/// overlapping). Nested arrays are refused: no model metadata uses them. Views stay valid while the GgufFile
/// lives.
class GgufFile {
 public:
  static Result<GgufFile> open(const std::filesystem::path& path);
  /// The same over bytes in memory (for fuzzing and tests); the views borrow `bytes`.
  static Result<GgufFile> parse(std::span<const std::byte> bytes, std::string where);

  [[nodiscard]] const GgufMetadata& metadata() const { return metadata_; }
  /// In the file's order.
  [[nodiscard]] const std::vector<GgufTensor>& tensors() const { return tensors_; }
  /// nullptr where there is none of that name.
  [[nodiscard]] const GgufTensor* find(std::string_view name) const;
  [[nodiscard]] std::uint32_t version() const { return version_; }
  [[nodiscard]] std::uint64_t alignment() const { return alignment_; }
  /// The file's name, for error messages.
  [[nodiscard]] const std::string& where() const { return where_; }

 private:
  friend class GgufParser;
  MappedFile file_;
  std::string where_;
  std::uint32_t version_ = 0;
  std::uint64_t alignment_ = 32;
  GgufMetadata metadata_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
};

}  // namespace optiq::io
