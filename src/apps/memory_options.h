// --max-memory, shared by the verbs that promise it (docs/memory.md).
#pragma once

#include "optiq/base/file.h"
#include "optiq/base/memory.h"
#include "verbs.h"

namespace optiq::apps {

struct MemoryArguments {
  std::optional<std::string> max_memory;  ///< as typed

  /// How weights are read: under a limit, a block at a time.
  [[nodiscard]] Access access() const { return max_memory ? Access::streamed : Access::kept; }
};

void add_memory_option(CLI::App* verb, MemoryArguments& args);

/// The limit, with what does not fit beside `output`; the allocator and MLX are told to keep little. usage
/// for a size that is none.
Result<MemoryLimit> memory_limit(const MemoryArguments& args, const std::filesystem::path& output);

/// "peak memory 1.2 GB of 4.0 GB" with a line break, for people; empty without a limit.
std::string memory_line(const MemoryLimit& limit);

}  // namespace optiq::apps
