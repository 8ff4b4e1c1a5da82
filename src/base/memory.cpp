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
  struct rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
#if defined(__APPLE__)
  memory.peak_bytes = static_cast<std::uint64_t>(usage.ru_maxrss);
  memory.now_bytes = memory.peak_bytes;
#else
  memory.peak_bytes = static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
  std::ifstream statm("/proc/self/statm");
  std::uint64_t size = 0, resident = 0;
  statm >> size >> resident;
  memory.now_bytes = resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
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
