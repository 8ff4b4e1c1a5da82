#include "optiq/base/file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <system_error>
#include <vector>

#include "optiq/base/units.h"

namespace optiq {
namespace {

namespace fs = std::filesystem;

std::string last_error() {
  return std::strerror(errno);
}

Status sync_path(const fs::path& path, int flags) {
  const int descriptor = ::open(path.c_str(), flags);
  if (descriptor < 0)
    return fail(ErrorCode::out_of_resources, "{}: cannot open to sync: {}", path.string(), last_error());
  const int outcome = ::fsync(descriptor);
  ::close(descriptor);
  if (outcome != 0)
    return fail(ErrorCode::out_of_resources, "{}: cannot sync: {}", path.string(), last_error());
  return {};
}

fs::path parent_of(const fs::path& path) {
  const fs::path parent = fs::absolute(path).lexically_normal().parent_path();
  return parent.empty() ? fs::path("/") : parent;
}

/// Removes the hidden siblings that processes left which are no more (killed before they could).
void remove_orphans(const fs::path& sibling) {
  const std::string name = sibling.filename().string();
  const std::string prefix = name.substr(0, name.rfind('.') + 1);
  std::error_code ignored;
  std::vector<fs::path> orphans;
  for (const auto& entry : fs::directory_iterator(sibling.parent_path(), ignored)) {
    const std::string other = entry.path().filename().string();
    if (!other.starts_with(prefix)) continue;
    const std::string owner = other.substr(prefix.size());
    const auto pid = static_cast<pid_t>(std::strtol(owner.c_str(), nullptr, 10));
    if (pid > 0 && std::to_string(pid) == owner && ::kill(pid, 0) != 0 && errno == ESRCH)
      orphans.push_back(entry.path());
  }
  for (const fs::path& orphan : orphans) fs::remove_all(orphan, ignored);
}

/// A hidden sibling.
fs::path hidden_sibling(const fs::path& path, std::string_view suffix) {
  fs::path clean = fs::absolute(path).lexically_normal();
  if (!clean.has_filename()) clean = clean.parent_path();
  return clean.parent_path() / fmt::format(".{}.{}", clean.filename().string(), suffix);
}

/// A hidden sibling's name that no other process uses.
fs::path sibling_name(const fs::path& path, std::string_view suffix) {
  return hidden_sibling(path, fmt::format("{}.{}", suffix, ::getpid()));
}

/// Bytes that a writer lets pile up before the device begins with them.
constexpr std::uint64_t kWriteBehindBytes = 32u << 20;

/// A staging folder replaces only what a program like this one wrote.
Status check_target(const fs::path& target, std::string_view marker) {
  std::error_code ignored;
  if (!fs::exists(target, ignored)) return {};
  if (!fs::is_directory(target, ignored)) {
    return fail(ErrorCode::bad_input, "{}: expected a folder or a new name, found a file", target.string());
  }
  if (!fs::is_empty(target, ignored) && !fs::exists(target / marker, ignored)) {
    return fail(ErrorCode::bad_input, "{}: refusing to replace a folder that holds no {}", target.string(),
                marker);
  }
  return {};
}

/// Exchanges two existing paths atomically.
int exchange_paths(const fs::path& a, const fs::path& b) {
#if defined(__APPLE__)
  return ::renamex_np(a.c_str(), b.c_str(), RENAME_SWAP);
#else
  return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE);
#endif
}

}  // namespace

Result<std::string> read_text_file(const fs::path& path, std::uint64_t limit_bytes) {
  OPTIQ_TRY(const MappedFile file, MappedFile::open(path));
  if (file.bytes().size() > limit_bytes) {
    return fail(ErrorCode::bad_input, "{}: expected at most {} bytes, got {}", path.string(), limit_bytes,
                file.bytes().size());
  }
  return std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
}

std::string file_identity(const fs::path& path) {
  std::error_code ignored;
  const auto size = fs::file_size(path, ignored);
  const auto time = fs::last_write_time(path, ignored).time_since_epoch().count();
  return fmt::format("{} {} {}", path.string(), size, time);
}

Status replace_file(const fs::path& path, const std::function<Status(const fs::path&)>& write) {
  const fs::path temporary = sibling_name(path, "tmp");
  remove_orphans(temporary);
  const auto write_all = [&]() -> Status {
    OPTIQ_CHECK(write(temporary));
    if (::rename(temporary.c_str(), path.c_str()) != 0) {
      return fail(ErrorCode::out_of_resources, "{}: cannot rename {} to it: {}", path.string(),
                  temporary.string(), last_error());
    }
    return sync_path(parent_of(path), O_RDONLY);
  };
  Status outcome = write_all();
  if (!outcome) ::unlink(temporary.c_str());
  return outcome;
}

Status write_file_atomically(const fs::path& path, std::string_view text) {
  return replace_file(path, [&](const fs::path& temporary) -> Status {
    OPTIQ_TRY(FileWriter writer, FileWriter::create(temporary));
    OPTIQ_CHECK(writer.write(std::as_bytes(std::span(text))));
    return writer.finish();
  });
}

Result<FileWriter> FileWriter::create(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0)
    return fail(ErrorCode::out_of_resources, "{}: cannot create: {}", path.string(), last_error());
  return FileWriter(descriptor, path);
}

Result<FileWriter> FileWriter::resume(const fs::path& path, std::uint64_t keep_bytes) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor < 0) {
    return fail(ErrorCode::out_of_resources, "{}: cannot open to write: {}", path.string(), last_error());
  }
  FileWriter writer(descriptor, path);
  const auto length = static_cast<off_t>(keep_bytes);
  if (::ftruncate(descriptor, length) != 0 || ::lseek(descriptor, length, SEEK_SET) != length) {
    return fail(ErrorCode::out_of_resources, "{}: cannot cut to {} bytes: {}", path.string(), keep_bytes,
                last_error());
  }
  return writer;
}

FileWriter::FileWriter(FileWriter&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      path_(std::move(other.path_)),
      waiting_bytes_(other.waiting_bytes_) {}

FileWriter& FileWriter::operator=(FileWriter&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(path_, other.path_);
  std::swap(waiting_bytes_, other.waiting_bytes_);
  return *this;
}

FileWriter::~FileWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Status FileWriter::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), std::min<std::size_t>(bytes.size(), 1u << 30));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0)
      return fail(ErrorCode::out_of_resources, "{}: cannot write: {}", path_.string(), last_error());
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    waiting_bytes_ += static_cast<std::uint64_t>(written);
  }
#if defined(__linux__)
  if (waiting_bytes_ >= kWriteBehindBytes) {
    ::sync_file_range(descriptor_, 0, 0, SYNC_FILE_RANGE_WRITE);
    waiting_bytes_ = 0;
  }
#endif
  return {};
}

Status FileWriter::sync() {
  if (::fsync(descriptor_) == 0) return {};
  return fail(ErrorCode::out_of_resources, "{}: cannot sync: {}", path_.string(), last_error());
}

Status FileWriter::finish() {
  const int descriptor = std::exchange(descriptor_, -1);
  const bool synced = ::fsync(descriptor) == 0;
  const std::string reason = last_error();
  const bool closed = ::close(descriptor) == 0;
  if (synced && closed) return {};
  return fail(ErrorCode::out_of_resources, "{}: cannot finish writing: {}", path_.string(),
              synced ? last_error() : reason);
}

Status make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error) return {};
  return fail(ErrorCode::out_of_resources, "{}: cannot create the folder: {}", folder.string(),
              error.message());
}

Status swap_folders(const fs::path& a, const fs::path& b) {
  if (exchange_paths(a, b) == 0) return {};
  return fail(ErrorCode::out_of_resources, "{}: cannot be swapped with {}: {}", a.string(), b.string(),
              last_error());
}

Result<StagedDirectory> StagedDirectory::create(const fs::path& target, std::string_view marker) {
  OPTIQ_CHECK(check_target(target, marker));
  const fs::path staging = sibling_name(target, "partial");
  remove_orphans(staging);
  std::error_code ignored;
  fs::remove_all(staging, ignored);
  OPTIQ_CHECK(make_folder(staging));
  return StagedDirectory(target, staging);
}

Result<StagedDirectory> StagedDirectory::resume(const fs::path& target, std::string_view marker) {
  OPTIQ_CHECK(check_target(target, marker));
  const fs::path staging = hidden_sibling(target, "partial");
  OPTIQ_CHECK(make_folder(staging));
  const int lock = ::open(staging.c_str(), O_RDONLY | O_CLOEXEC);
  if (lock < 0 || ::flock(lock, LOCK_EX | LOCK_NB) != 0) {
    const std::string reason = last_error();
    if (lock >= 0) ::close(lock);
    return fail(ErrorCode::out_of_resources, "{}: cannot lock it (is another process writing {}?): {}",
                staging.string(), target.string(), reason);
  }
  return StagedDirectory(target, staging, lock);
}

StagedDirectory::StagedDirectory(StagedDirectory&& other) noexcept
    : target_(std::move(other.target_)),
      staging_(std::exchange(other.staging_, {})),
      lock_(std::exchange(other.lock_, -1)) {}

StagedDirectory::~StagedDirectory() {
  std::error_code ignored;
  if (!staging_.empty()) fs::remove_all(staging_, ignored);
  if (lock_ >= 0) ::close(lock_);
}

void StagedDirectory::keep() {
  staging_.clear();
}

Status StagedDirectory::commit() {
  for (const auto& entry : fs::directory_iterator(staging_)) OPTIQ_CHECK(sync_path(entry.path(), O_RDONLY));
  OPTIQ_CHECK(sync_path(staging_, O_RDONLY));
  std::error_code ignored;
  const bool replaces = fs::exists(target_, ignored);
  const int outcome =
      replaces ? exchange_paths(staging_, target_) : ::rename(staging_.c_str(), target_.c_str());
  if (outcome != 0) {
    return fail(ErrorCode::out_of_resources, "{}: cannot put {} in its place: {}", target_.string(),
                staging_.string(), last_error());
  }
  if (replaces) fs::remove_all(staging_, ignored);
  staging_.clear();
  return sync_path(parent_of(target_), O_RDONLY);
}

std::optional<std::uint64_t> free_disk_bytes(const fs::path& path) {
  fs::path existing = fs::absolute(path).lexically_normal();
  std::error_code ignored;
  while (existing.has_relative_path() && !fs::exists(existing, ignored)) existing = existing.parent_path();
  struct statvfs info {};
  if (::statvfs(existing.c_str(), &info) != 0) return std::nullopt;
  return static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
}

Status check_free_disk(const fs::path& path, std::uint64_t bytes, std::string_view what) {
  const std::optional<std::uint64_t> free = free_disk_bytes(path);
  if (!free || bytes <= *free) return {};
  return fail(ErrorCode::out_of_resources, "{}: expected {} of free disk for {}, found {}", path.string(),
              format_bytes(bytes), what, format_bytes(*free));
}

}  // namespace optiq
