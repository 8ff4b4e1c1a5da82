// The safetensors file format: 8-byte little-endian header length, JSON header, raw little-endian tensor
// data. Source: the format's README in huggingface/safetensors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "optiq/base/dtype.h"
#include "optiq/base/file.h"
#include "optiq/base/result.h"

namespace optiq::io {

/// A tensor where it lies in a mapped file: row-major, little-endian. Valid while `file` (a shared mapping)
/// lives.
struct TensorView {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;   ///< Every extent ≥ 0; the product fits in int64.
  std::span<const std::byte> bytes;  ///< exactly product(shape) · dtype_bytes; may be unaligned.
  MappedFile file;                   ///< Keeps `bytes` alive.

  [[nodiscard]] std::int64_t elements() const;
};

/// "[2, 3]", cut where a hostile file makes it absurdly long.
std::string shape_text(const std::vector<std::int64_t>& shape);

/// What a writer needs to know of a tensor before its data.
struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
};

/// bytes = product(shape) · dtype_bytes, or bad_input where that overflows or an extent is negative.
Result<std::uint64_t> tensor_bytes(const TensorSpec& spec);

/// An open file. Header rules enforced (bad_input names file, tensor, expected, actual): header ≤ 100 MB and
/// inside the file, known dtypes, offsets inside the data, begin ≤ end, size = shape · dtype, no overlap, no
/// gap.
class SafetensorsFile {
 public:
  static Result<SafetensorsFile> open(const std::filesystem::path& path, Access access = Access::kept);
  /// The same over bytes in memory (for fuzzing and tests); the views borrow `bytes`.
  static Result<SafetensorsFile> parse(std::span<const std::byte> bytes, std::string where);

  [[nodiscard]] const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const { return metadata_; }
  [[nodiscard]] std::uint64_t header_bytes() const { return header_bytes_; }  ///< 8 + JSON header

 private:
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
  std::uint64_t header_bytes_ = 0;
};

/// Bytes in front of the data for these tensors and metadata, padding included: lets a planner know the
/// file's size to the byte before a weight is read.
std::uint64_t safetensors_header_bytes(std::span<const TensorSpec> tensors,
                                       const std::map<std::string, std::string>& metadata);

/// Writes tensors one after another, in the order of `tensors`, never holding more than the caller gives at a
/// time.
class SafetensorsWriter {
 public:
  static Result<SafetensorsWriter> create(const std::filesystem::path& path, std::vector<TensorSpec> tensors,
                                          const std::map<std::string, std::string>& metadata);
  /// Goes on with a file that create() of the same arguments began, behind its first `done` tensors. What
  /// came after them is cut off.
  static Result<SafetensorsWriter> resume(const std::filesystem::path& path, std::vector<TensorSpec> tensors,
                                          const std::map<std::string, std::string>& metadata,
                                          std::size_t done);
  /// Appends the next tensor's bytes (in as many calls as wanted, in order). internal if more than announced.
  Status append(std::span<const std::byte> bytes);
  /// Flushes what was appended to the device.
  Status sync() { return file_.sync(); }
  /// internal if bytes are missing; then syncs and closes.
  Status finish();

 private:
  SafetensorsWriter(FileWriter file, std::uint64_t expected) : file_(std::move(file)), remaining_(expected) {}
  FileWriter file_;
  std::uint64_t remaining_ = 0;
};

}  // namespace optiq::io
