#include "memory_options.h"

#include <mlx/mlx.h>

#include "optiq/base/units.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace optiq::apps {
namespace {

/// The opposite of main's keep_freed_memory: arrays of megabytes go back to the system when they are freed.
void keep_little() {
#if defined(__GLIBC__)
  ::mallopt(M_MMAP_THRESHOLD, 4 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 16 << 20);
  ::mallopt(M_TOP_PAD, 1 << 20);
#endif
}

}  // namespace

void add_memory_option(CLI::App* verb, MemoryArguments& args) {
  verb->add_option("--max-memory", args.max_memory,
                   "Resident memory that is not exceeded, such as 4GB: weights are read a block at a time, and "
                   "activations that do not fit go to disk beside the output");
}

Result<MemoryLimit> memory_limit(const MemoryArguments& args, const std::filesystem::path& output) {
  MemoryLimit limit;
  if (!args.max_memory) return limit;
  OPTIQ_TRY(limit.bytes, parse_bytes(*args.max_memory));
  limit.scratch = std::filesystem::absolute(output).lexically_normal();
  if (!limit.scratch.has_filename()) limit.scratch = limit.scratch.parent_path();
  limit.scratch = limit.scratch.parent_path();
  keep_little();
  mlx::core::set_cache_limit(0);
  mlx::core::set_memory_limit(limit.bytes);
  return limit;
}

std::string memory_line(const MemoryLimit& limit) {
  if (!limit.is_set()) return "";
  return fmt::format("peak memory {} of {}\n", format_bytes(resident_memory().peak_bytes),
                     format_bytes(limit.bytes));
}

}  // namespace optiq::apps
