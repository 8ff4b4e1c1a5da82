// Memory that a process holds, and a limit on it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "optiq/base/result.h"

namespace optiq {

/// Of the machine.
std::uint64_t physical_memory_bytes();

/// Resident memory of this process as the system counts it: anonymous pages and pages of mapped files.
struct ResidentMemory {
  std::uint64_t now_bytes = 0;
  std::uint64_t peak_bytes = 0;  ///< since the process began
};
ResidentMemory resident_memory();

/// Gives freed memory that the allocator keeps back to the system (glibc; nothing elsewhere).
void return_freed_memory();

/// What a job may hold resident (docs/memory.md).
struct MemoryLimit {
  std::uint64_t bytes = 0;        ///< 0: no limit
  std::filesystem::path scratch;  ///< folder for activations that do not fit

  [[nodiscard]] bool is_set() const { return bytes != 0; }
  /// Whether `more` bytes fit beside the `least` that a job needs: within the limit, or else half the machine.
  [[nodiscard]] bool has_room(std::uint64_t least, std::uint64_t more) const {
    return least + more <= (is_set() ? bytes : physical_memory_bytes() / 2);
  }
};

/// The program with its libraries, tokenizer, threads and small allocations.
inline constexpr std::uint64_t kProcessBytes = 160ull << 20;

/// impossible_budget where a limit is below the `least` that `job` takes, naming both.
Status check_memory(const MemoryLimit& limit, std::uint64_t least, std::string_view job);

}  // namespace optiq
