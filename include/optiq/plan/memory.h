// What a running model takes of a machine's memory, and what machines have to give.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "optiq/base/result.h"
#include "optiq/kernels/kv_cache.h"
#include "optiq/model/model.h"
#include "optiq/plan/plan.h"
#include "optiq/profile/sensitivity.h"

namespace optiq::plan {

inline constexpr std::int64_t kDefaultContextTokens = 4096;

/// What a user wants to run beside the weights.
struct MemoryNeed {
  std::int64_t context_tokens = kDefaultContextTokens;  ///< of each sequence
  std::int64_t sequences = 1;                           ///< decoded side by side
  kernels::cpu::CacheFormat cache = {};                 ///< of every block, where it is not planned
  bool plans_keys = false, plans_values = false;  ///< their bits are the planner's choice, block by block

  [[nodiscard]] bool plans_cache() const { return plans_keys || plans_values; }
};

/// What of a model cache and scratch depend on.
struct MemoryShape {
  std::int64_t layers = 0, kv_heads = 0, head_dim = 0;
  std::int64_t widest = 0;  ///< most inputs and outputs of a matrix of a block
  std::int64_t logits = 0;  ///< outputs of the head
  /// Blocks from first_sliding_layer on attend to so many last tokens; 0: to all.
  std::int64_t sliding_window = 0, first_sliding_layer = 0;
};
/// All but what matrices say.
MemoryShape memory_shape(const profile::ModelFacts& facts);
MemoryShape memory_shape(const profile::Sensitivity& sensitivity);
MemoryShape memory_shape(const model::Model& model);

/// The most that one block's cache of all sequences takes, as the engine allocates it
/// (kernels::cpu::CacheShape::most_bytes in passes of 512 tokens: a block with a sliding window keeps what
/// its window, a pass and a page behind it touch).
std::uint64_t block_cache_bytes(const MemoryShape& shape, const MemoryNeed& need, std::int64_t layer,
                                kernels::cpu::CacheFormat format);

/// All but the weights. cache_bytes: block_cache_bytes of every block at need.cache; 0 where the planner is
/// to choose. Scratch is 128 MiB for the process, its libraries and tokenizer, four times the widest block
/// matrix's inputs and outputs of 512 tokens in f32, one row of logits in f32, and what of such a pass waits
/// in f16 to be packed in one block. usage for a context or a number of sequences below 1, a cache of no
/// sensible size, or keys or values that are planned beside others that are neither packed nor f16.
Result<MemoryUse> memory_use(const MemoryShape& shape, const MemoryNeed& need);

/// A machine, and how much of its memory one program may take without harm to the rest.
struct Device {
  std::string name;
  std::uint64_t memory_bytes = 0;
  std::uint64_t usable_bytes = 0;
  std::string reason;  ///< why usable_bytes is less: one phrase
};

/// "mac-8gb", "pc-16gb", "gpu-24gb" with any whole number of GB from 1 to 4096, or "this". A Mac's GPU may
/// hold two thirds of the memory by default, three quarters above 32 GB (Metal's recommendedMaxWorkingSetSize
/// as reported for macOS 13 to 15: 5.3 of 8, 10.7 of 16, 21.3 of 32, 48 of 64 GiB; newer ones allow a little
/// more, and the setting iogpu.wired_limit_mb changes it); of a PC the larger of 2 GiB and an eighth stays
/// the system's, of a GPU of its own the larger of 512 MiB and a sixteenth. "this" takes this machine's
/// memory, or on Linux the control group's limit where that is less. usage for any other name.
Result<Device> parse_device(std::string_view name);

/// A line of the answer to "what can I run here?".
struct ContextFit {
  MemoryNeed need;
  MemoryUse memory;                ///< but for weight_bytes
  std::uint64_t weight_bytes = 0;  ///< left for weight files; 0: nothing fits
  double bits_per_weight = 0;      ///< weight_bytes over the model's parameters
};

/// One ContextFit for each of `needs`. parameters > 0. Errors: those of memory_use.
Result<std::vector<ContextFit>> fits(const MemoryShape& shape, std::int64_t parameters, const Device& device,
                                     const std::vector<MemoryNeed>& needs);

}  // namespace optiq::plan
