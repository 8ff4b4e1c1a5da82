#include "arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "optiq/base/threads.h"

namespace optiq::engine {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
/// Of a tensor, that lies in memory twice while it is moved.
constexpr std::size_t kPiece = std::size_t{16} << 20;

std::size_t rounded_up(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

/// Tells the system that the pages that lie wholly within a part of a file's mapping are not needed for now.
/// Reading them again reads the file.
void release(const std::byte* data, std::size_t bytes) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = rounded_up(reinterpret_cast<std::uintptr_t>(data), page);
  const auto end = (reinterpret_cast<std::uintptr_t>(data) + bytes) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace

Arena::~Arena() {
  if (mapping_ != nullptr) ::munmap(mapping_, mapping_bytes_);
}

bool Arena::reserve(std::size_t bytes) {
#if defined(MADV_HUGEPAGE)
  const std::size_t size = rounded_up(bytes, kHugePage) + kHugePage;
  void* p = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return false;
  mapping_ = static_cast<std::byte*>(p);
  mapping_bytes_ = size;
  next_ = reinterpret_cast<std::byte*>(rounded_up(reinterpret_cast<std::uintptr_t>(p), kHugePage));
  return ::madvise(p, size, MADV_HUGEPAGE) == 0;
#else
  static_cast<void>(bytes);
  return false;
#endif
}

const void* Arena::move(const void* data, std::size_t bytes, bool mapped) {
  const auto* from = static_cast<const std::byte*>(data);
  std::byte* to = next_;
  next_ += taken(bytes);
  for (std::size_t piece = 0; piece < bytes; piece += kPiece) {
    const std::size_t size = std::min(kPiece, bytes - piece);
    parallel_for(size, std::size_t{1} << 18, [&](std::size_t begin, std::size_t end) {
      std::memcpy(to + piece + begin, from + piece + begin, end - begin);
    });
    if (mapped) release(from + piece, size);
  }
  return to;
}

}  // namespace optiq::engine
