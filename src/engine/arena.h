// Weights in huge pages. Walking through a model touches every page of it for every token, and translating
// addresses of 4 KiB pages then costs as much as reading some of them.
#pragma once

#include <cstddef>

namespace optiq::engine {

/// Memory for copies of tensors, in huge pages where the system gives them.
class Arena {
 public:
  Arena() = default;
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// Address space for `bytes`; memory is taken as it is used. False where the system has no huge pages to
  /// ask for, or no address space.
  bool reserve(std::size_t bytes);

  /// Copies bytes into the arena, in parallel, and says where they are. `mapped`: they lie in a file's
  /// mapping, whose pages are let go piece by piece, so that little lies in memory twice.
  const void* move(const void* data, std::size_t bytes, bool mapped);

  /// What move() takes of the reserved bytes.
  static std::size_t taken(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

 private:
  static constexpr std::size_t kAlignment = 64;

  std::byte* mapping_ = nullptr;
  std::size_t mapping_bytes_ = 0;
  std::byte* next_ = nullptr;
};

}  // namespace optiq::engine
