#include "optiq/base/scratch_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "optiq/base/units.h"

namespace optiq {
namespace {

/// 0, or why the space cannot be had.
int reserve(int descriptor, std::uint64_t bytes) {
#if defined(__APPLE__)
  return ::ftruncate(descriptor, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
#else
  return ::posix_fallocate(descriptor, 0, static_cast<off_t>(bytes));
#endif
}

}  // namespace

Result<ScratchFile> ScratchFile::create(const std::filesystem::path& folder, std::uint64_t bytes) {
  std::string name = (folder / "optiq-scratch-XXXXXX").string();
  const int descriptor = ::mkstemp(name.data());
  if (descriptor < 0) {
    return fail(ErrorCode::out_of_resources, "{}: cannot create a scratch file: {}", folder.string(),
                std::strerror(errno));
  }
  ::unlink(name.c_str());
  ScratchFile file(descriptor, folder);
  if (const int reason = reserve(descriptor, bytes); bytes > 0 && reason != 0) {
    return fail(ErrorCode::out_of_resources, "{}: expected {} of free space for scratch data: {}",
                folder.string(), format_bytes(bytes), std::strerror(reason));
  }
  return file;
}

ScratchFile::ScratchFile(ScratchFile&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), folder_(std::move(other.folder_)) {}

ScratchFile& ScratchFile::operator=(ScratchFile&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(folder_, other.folder_);
  return *this;
}

ScratchFile::~ScratchFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Status ScratchFile::read(std::uint64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t got = ::pread(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      return fail(ErrorCode::out_of_resources, "{}: cannot read scratch data: {}", folder_.string(),
                  got < 0 ? std::strerror(errno) : "it ends early");
    }
    bytes = bytes.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return {};
}

Status ScratchFile::write(std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) {
      return fail(ErrorCode::out_of_resources, "{}: cannot write scratch data: {}", folder_.string(),
                  std::strerror(errno));
    }
    bytes = bytes.subspan(static_cast<std::size_t>(put));
    offset += static_cast<std::uint64_t>(put);
  }
  return {};
}

}  // namespace optiq
