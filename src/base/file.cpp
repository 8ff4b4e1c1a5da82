#include "optiq/base/file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <system_error>
#include <vector>

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

/// A hidden sibling's name that no other process uses.
fs::path sibling_name(const fs::path& path, std::string_view suffix) {
  fs::path clean = fs::absolute(path).lexically_normal();
  if (!clean.has_filename()) clean = clean.parent_path();
  return clean.parent_path() / fmt::format(".{}.{}.{}", clean.filename().string(), suffix, ::getpid());
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

Result<MappedFile> MappedFile::open(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return fail(ErrorCode::bad_input, "{}: cannot open: {}", path.string(), last_error());
  struct stat info {};
  if (::fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(descriptor);
    return fail(ErrorCode::bad_input, "{}: expected a regular file", path.string());
  }
  MappedFile file;
  file.path_ = path;
  const auto size = static_cast<std::size_t>(info.st_size);
  if (size != 0) {
    void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (address == MAP_FAILED) {
      const std::string reason = last_error();
      ::close(descriptor);
      return fail(ErrorCode::out_of_resources, "{}: cannot map {} bytes: {}", path.string(), size, reason);
    }
    file.mapping_ =
        std::shared_ptr<const void>(address, [size](const void* p) { ::munmap(const_cast<void*>(p), size); });
    file.bytes_ = {static_cast<const std::byte*>(address), size};
  }
  ::close(descriptor);
  return file;
}

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

Status write_file_atomically(const fs::path& path, std::string_view text) {
  const fs::path temporary = sibling_name(path, "tmp");
  remove_orphans(temporary);
  const auto write_all = [&]() -> Status {
    OPTIQ_TRY(FileWriter writer, FileWriter::create(temporary));
    OPTIQ_CHECK(writer.write(std::as_bytes(std::span(text))));
    OPTIQ_CHECK(writer.finish());
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
    : descriptor_(std::exchange(other.descriptor_, -1)), path_(std::move(other.path_)) {}

FileWriter& FileWriter::operator=(FileWriter&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(path_, other.path_);
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
  }
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
  std::error_code ignored;
  if (fs::exists(target, ignored)) {
    if (!fs::is_directory(target, ignored)) {
      return fail(ErrorCode::bad_input, "{}: expected a folder or a new name, found a file", target.string());
    }
    if (!fs::is_empty(target, ignored) && !fs::exists(target / marker, ignored)) {
      return fail(ErrorCode::bad_input, "{}: refusing to replace a folder that holds no {}", target.string(),
                  marker);
    }
  }
  const fs::path staging = sibling_name(target, "partial");
  remove_orphans(staging);
  fs::remove_all(staging, ignored);
  std::error_code error;
  fs::create_directories(staging, error);
  if (error)
    return fail(ErrorCode::out_of_resources, "{}: cannot create: {}", staging.string(), error.message());
  return StagedDirectory(target, staging);
}

StagedDirectory::StagedDirectory(StagedDirectory&& other) noexcept
    : target_(std::move(other.target_)), staging_(std::exchange(other.staging_, {})) {}

StagedDirectory::~StagedDirectory() {
  std::error_code ignored;
  if (!staging_.empty()) fs::remove_all(staging_, ignored);
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

}  // namespace optiq
