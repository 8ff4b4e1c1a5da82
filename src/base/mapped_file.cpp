#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "optiq/base/file.h"

namespace optiq {
namespace {

std::string last_error() {
  return std::strerror(errno);
}

/// The whole pages that `part` touches, as an offset into the mapping and a length.
struct Pages {
  std::size_t offset = 0;
  std::size_t bytes = 0;
};

Pages pages_of(std::span<const std::byte> whole, std::span<const std::byte> part) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = static_cast<std::size_t>(part.data() - whole.data());
  const std::size_t first = begin / page * page;
  return {first, begin + part.size() - first};
}

}  // namespace

/// The descriptor stays open: the system's cache is told through it what is no longer needed.
struct MappedFile::Mapping {
  void* address = nullptr;
  std::size_t size = 0;
  int descriptor = -1;

  Mapping() = default;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (address != nullptr) ::munmap(address, size);
    if (descriptor >= 0) ::close(descriptor);
  }
};

Result<MappedFile> MappedFile::open(const std::filesystem::path& path, Access access) {
  auto mapping = std::make_shared<Mapping>();
  mapping->descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (mapping->descriptor < 0)
    return fail(ErrorCode::bad_input, "{}: cannot open: {}", path.string(), last_error());
  struct stat info {};
  if (::fstat(mapping->descriptor, &info) != 0 || !S_ISREG(info.st_mode))
    return fail(ErrorCode::bad_input, "{}: expected a regular file", path.string());
  MappedFile file;
  file.path_ = path;
  file.access_ = access;
  if (info.st_size == 0) return file;
  mapping->size = static_cast<std::size_t>(info.st_size);
  void* address = ::mmap(nullptr, mapping->size, PROT_READ, MAP_PRIVATE, mapping->descriptor, 0);
  if (address == MAP_FAILED) {
    return fail(ErrorCode::out_of_resources, "{}: cannot map {} bytes: {}", path.string(), mapping->size,
                last_error());
  }
  mapping->address = address;
  if (access == Access::kept) {
    ::close(mapping->descriptor);
    mapping->descriptor = -1;
  }
  file.bytes_ = {static_cast<const std::byte*>(address), mapping->size};
  file.mapping_ = std::move(mapping);
  return file;
}

void MappedFile::prefetch(std::span<const std::byte> part) const {
  if (access_ == Access::kept || part.empty()) return;
  const Pages pages = pages_of(bytes_, part);
  ::madvise(static_cast<std::byte*>(mapping_->address) + pages.offset, pages.bytes, MADV_WILLNEED);
}

void MappedFile::release(std::span<const std::byte> part) const {
  if (access_ == Access::kept || part.empty()) return;
  const Pages pages = pages_of(bytes_, part);
  ::madvise(static_cast<std::byte*>(mapping_->address) + pages.offset, pages.bytes, MADV_DONTNEED);
#if !defined(__APPLE__)
  ::posix_fadvise(mapping_->descriptor, static_cast<off_t>(pages.offset), static_cast<off_t>(pages.bytes),
                  POSIX_FADV_DONTNEED);
#endif
}

void ReadAhead::begin(std::vector<FilePart> parts) {
  wait();
  std::erase_if(parts, [](const FilePart& part) { return part.file.access() == Access::kept; });
  if (parts.empty()) return;
  reading_ = std::async(std::launch::async, [parts = std::move(parts)] {
    for (const FilePart& part : parts) part.file.prefetch(part.bytes);
  });
}

void ReadAhead::wait() {
  if (reading_.valid()) reading_.get();
}

}  // namespace optiq
