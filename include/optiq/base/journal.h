// An append-only log that survives a kill at any moment: a long job's finished pieces of work.
//
// Layout: records one after another, each: u64 payload length, u64 FNV-1a hash of the payload, payload. The
// first record is a text that says what the work is; a log of other work is not continued. A torn last record
// (a kill while it was written) is cut off when the log is opened again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "optiq/base/file.h"

namespace optiq {

/// The fingerprint of no bytes.
inline constexpr std::uint64_t kEmptyFingerprint = 0xcbf29ce484222325ull;

/// FNV-1a, 64 bits (Fowler, Noll, Vo), going on from `hash`: finds torn writes and other content, not
/// tampering.
std::uint64_t fingerprint(std::span<const std::byte> bytes, std::uint64_t hash = kEmptyFingerprint);

class Journal {
 public:
  /// Opens the log at `path` if it holds `identity`, otherwise begins a new one.
  static Result<Journal> open(const std::filesystem::path& path, const std::string& identity);

  /// Begins a new one, whatever lies there.
  static Result<Journal> begin(const std::filesystem::path& path, const std::string& identity);

  /// The records of the log at `path`, the identity not counted; none where it is missing or of other work.
  /// Changes nothing.
  static std::vector<std::vector<std::byte>> read(const std::filesystem::path& path,
                                                  const std::string& identity);

  /// Puts a log of this one record in the place of what lies there, whole or not at all: for work whose
  /// newest state makes those before it worthless.
  static Status replace(const std::filesystem::path& path, const std::string& identity,
                        std::span<const std::byte> payload);

  /// Records found at opening, the identity not counted.
  [[nodiscard]] const std::vector<std::vector<std::byte>>& records() const { return records_; }
  /// The same, no longer kept here.
  [[nodiscard]] std::vector<std::vector<std::byte>> take_records() { return std::move(records_); }
  /// How many records it holds now, the identity not counted.
  [[nodiscard]] std::size_t size() const { return found_ + appended_; }
  /// Appends one record and syncs it to the device.
  Status append(std::span<const std::byte> payload);
  /// Deletes the log: the work is done.
  Status remove();

 private:
  Journal(std::filesystem::path path, FileWriter file) : path_(std::move(path)), file_(std::move(file)) {}
  std::filesystem::path path_;
  FileWriter file_;
  std::vector<std::vector<std::byte>> records_;
  std::size_t found_ = 0;  ///< at opening
  std::size_t appended_ = 0;
};

}  // namespace optiq
