#include "optiq/base/huge_pages.h"

#include <sys/mman.h>

#include <cstdint>
#include <utility>

namespace optiq {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t rounded_up(std::size_t value) {
  return (value + kHugePage - 1) / kHugePage * kHugePage;
}

}  // namespace

HugePages::HugePages(std::size_t bytes) : mapping_bytes_(rounded_up(bytes) + kHugePage) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#if defined(MAP_NORESERVE)
  flags |= MAP_NORESERVE;
#endif
  void* p = ::mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (p == MAP_FAILED) return;
  mapping_ = p;
  data_ = reinterpret_cast<std::byte*>(rounded_up(reinterpret_cast<std::uintptr_t>(p)));
#if defined(MADV_HUGEPAGE)
  asked_ = ::madvise(p, mapping_bytes_, MADV_HUGEPAGE) == 0;
#endif
}

HugePages::~HugePages() {
  if (mapping_ != nullptr) ::munmap(mapping_, mapping_bytes_);
}

HugePages::HugePages(HugePages&& other) noexcept {
  *this = std::move(other);
}

HugePages& HugePages::operator=(HugePages&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  std::swap(mapping_bytes_, other.mapping_bytes_);
  std::swap(data_, other.data_);
  std::swap(asked_, other.asked_);
  return *this;
}

}  // namespace optiq
