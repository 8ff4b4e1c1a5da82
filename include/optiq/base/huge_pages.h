// Anonymous memory in huge pages, where the system gives them.
#pragma once

#include <cstddef>

namespace optiq {

/// Zeroed memory that begins at a huge page. Address space is taken at once, memory when it is first touched.
/// Not copied.
class HugePages {
 public:
  HugePages() = default;
  /// data() is null where there is no address space for `bytes`.
  explicit HugePages(std::size_t bytes);
  ~HugePages();
  HugePages(HugePages&& other) noexcept;
  HugePages& operator=(HugePages&& other) noexcept;

  [[nodiscard]] std::byte* data() const { return data_; }
  /// Whether the system took the request for huge pages (it may still give small ones). Linux only.
  [[nodiscard]] bool asked() const { return asked_; }

 private:
  void* mapping_ = nullptr;
  std::size_t mapping_bytes_ = 0;
  std::byte* data_ = nullptr;
  bool asked_ = false;
};

}  // namespace optiq
