#include "optiq/base/memory.h"

#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "optiq/base/units.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace optiq {

std::uint64_t physical_memory_bytes() {
  return static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
         static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

ResidentMemory resident_memory() {
  ResidentMemory memory;
#if defined(__APPLE__)
  struct rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
  memory.now_bytes = memory.peak_bytes = static_cast<std::uint64_t>(usage.ru_maxrss);
#else
  // getrusage counts what a parent held before it became this program.
  std::ifstream status("/proc/self/status");
  std::string word;
  std::uint64_t kilobytes = 0;
  while (status >> word) {
    if (word == "VmHWM:" && status >> kilobytes) memory.peak_bytes = kilobytes * 1024;
    if (word == "VmRSS:" && status >> kilobytes) memory.now_bytes = kilobytes * 1024;
  }
#endif
  return memory;
}

void return_freed_memory() {
#if defined(__GLIBC__)
  ::malloc_trim(0);
#endif
}

Status check_memory(const MemoryLimit& limit, std::uint64_t least, std::string_view job) {
  if (!limit.is_set() || least <= limit.bytes) return {};
  return fail(ErrorCode::impossible_budget, "{} within {} of memory: the least that would do is {}", job,
              format_bytes(limit.bytes), format_bytes(least));
}

}  // namespace optiq
