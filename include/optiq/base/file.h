// Files: read-only mappings, and writes that leave the old content or the new, never half.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "optiq/base/result.h"

namespace optiq {

/// Who decides which pages of a mapping stay in memory.
enum class Access {
  kept,      ///< the system: what was read once is likely to be there again
  streamed,  ///< the reader, by prefetch and release: for files larger than the memory it may use
};

/// A read-only mapping of a whole file. Cheap to copy (shared); bytes() is valid while any copy lives. A file
/// that shrinks while it is mapped faults on access, as with every mapping.
class MappedFile {
 public:
  /// bad_input where the file is missing, unreadable or no regular file. An empty file maps to an empty span.
  static Result<MappedFile> open(const std::filesystem::path& path, Access access = Access::kept);

  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] Access access() const { return access_; }

  /// Reads `part` of bytes() into the system's cache; may take as long as the device does. Nothing happens
  /// to a mapping that is kept, nor in release().
  void prefetch(std::span<const std::byte> part) const;
  /// Gives the pages of `part` back, those of the system's cache too (Linux). The bytes stay valid: touched
  /// again, they are read again.
  void release(std::span<const std::byte> part) const;

 private:
  struct Mapping;
  std::filesystem::path path_;
  std::shared_ptr<const Mapping> mapping_;
  std::span<const std::byte> bytes_;
  Access access_ = Access::kept;
};

/// Parts of a file that will be read next.
struct FilePart {
  MappedFile file;
  std::span<const std::byte> bytes;
};

/// Prefetches on a thread of its own while the caller computes. Destruction waits for the parts at hand.
class ReadAhead {
 public:
  /// Waits for the parts given before, then begins with these.
  void begin(std::vector<FilePart> parts);

 private:
  void wait();
  std::future<void> reading_;
};

/// The content of a text file; bad_input where it cannot be read or is larger than `limit_bytes`.
Result<std::string> read_text_file(const std::filesystem::path& path, std::uint64_t limit_bytes = 1ull << 32);

/// Path, size and time of last change: enough to notice that a file is another one.
std::string file_identity(const std::filesystem::path& path);

/// Replaces `path` by what `write` writes to (and syncs in) the temporary file beside it whose name it is
/// given, by a rename. out_of_resources where that fails (full disk, read-only folder), or the error of
/// `write`; the old file is then untouched and the temporary one is gone.
Status replace_file(const std::filesystem::path& path,
                    const std::function<Status(const std::filesystem::path& temporary)>& write);

/// replace_file by `text`.
Status write_file_atomically(const std::filesystem::path& path, std::string_view text);

/// A file being written sequentially. Not copied; removes nothing by itself: staging folders do that.
class FileWriter {
 public:
  static Result<FileWriter> create(const std::filesystem::path& path);
  /// Opens or makes the file, cuts it to its first `keep_bytes`, and writes on from there.
  static Result<FileWriter> resume(const std::filesystem::path& path, std::uint64_t keep_bytes);
  FileWriter(FileWriter&& other) noexcept;
  FileWriter& operator=(FileWriter&& other) noexcept;
  ~FileWriter();

  /// The device begins to write whole chunks while the caller goes on (Linux): finish() has little left to
  /// wait for.
  Status write(std::span<const std::byte> bytes);
  /// Flushes to the device; writing may go on.
  Status sync();
  /// Flushes to the device and closes. Call it: a file closed only by the destructor is not known to be
  /// whole.
  Status finish();

 private:
  FileWriter(int descriptor, std::filesystem::path path) : descriptor_(descriptor), path_(std::move(path)) {}
  int descriptor_ = -1;
  std::filesystem::path path_;
  std::uint64_t waiting_bytes_ = 0;  ///< written since the device was last asked to begin
};

/// Makes the folder and those above it where they are missing; out_of_resources where that fails.
Status make_folder(const std::filesystem::path& folder);

/// A place for a folder that nobody needs later: what lies there is removed at the beginning (a killed run
/// may have left it) and at the end. Makes no folder itself.
class ScratchFolder {
 public:
  explicit ScratchFolder(std::filesystem::path path) : path_(std::move(path)) { remove(); }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder() { remove(); }

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  void remove() const {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  std::filesystem::path path_;
};

/// Swaps two existing folders of one file system in one step. out_of_resources where that fails.
Status swap_folders(const std::filesystem::path& a, const std::filesystem::path& b);

/// A folder that appears whole or not at all. Files are written into path() (a hidden sibling of the target);
/// commit() syncs it and swaps it with the target in one rename. Without commit() everything in it is
/// removed, unless keep() was called.
class StagedDirectory {
 public:
  /// Refuses (bad_input) a target that exists and is no folder, or that is a folder in which `marker` is
  /// missing (so that a mistyped OUT never replaces a home folder); an empty existing folder is fine.
  static Result<StagedDirectory> create(const std::filesystem::path& target, std::string_view marker);
  /// The same in a folder that the next resume() of this target finds again, with what a killed process or
  /// keep() left in it. out_of_resources where another process is at work in it.
  static Result<StagedDirectory> resume(const std::filesystem::path& target, std::string_view marker);
  StagedDirectory(StagedDirectory&& other) noexcept;
  StagedDirectory& operator=(StagedDirectory&&) = delete;
  ~StagedDirectory();

  [[nodiscard]] const std::filesystem::path& path() const { return staging_; }
  Status commit();
  /// Leaves what is there for resume().
  void keep();

 private:
  StagedDirectory(std::filesystem::path target, std::filesystem::path staging, int lock = -1)
      : target_(std::move(target)), staging_(std::move(staging)), lock_(lock) {}
  std::filesystem::path target_;
  std::filesystem::path staging_;  ///< empty: nothing is left to remove
  int lock_ = -1;                  ///< a descriptor of the folder, where it is one to resume
};

/// Free space that this process may use where `path` lies or will lie; nothing where the system does not say.
std::optional<std::uint64_t> free_disk_bytes(const std::filesystem::path& path);

/// out_of_resources where fewer than `bytes` are free there, naming both and `what` they are for.
Status check_free_disk(const std::filesystem::path& path, std::uint64_t bytes, std::string_view what);

}  // namespace optiq
