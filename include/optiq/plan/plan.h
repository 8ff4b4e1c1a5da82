// plan.json: which format each module gets, and the exact size of the checkpoint that follows from it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "optiq/base/json.h"
#include "optiq/base/result.h"
#include "optiq/io/safetensors.h"
#include "optiq/kernels/kv_cache.h"
#include "optiq/profile/sensitivity.h"
#include "optiq/quant/encoder.h"
#include "optiq/quant/format.h"

namespace optiq::plan {

struct PlannedModule {
  std::string name;  ///< without ".weight"
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  std::int64_t layer = -1;
  quant::Format format;  ///< dense (16 bits) where it is left as it is
  quant::Encoder encoder = quant::Encoder::rtn;
  std::uint64_t bytes = 0;  ///< of its weight, scales and biases, without headers
  double cost = 0;          ///< predicted KL of changing this module alone, nats a token
};

/// Where the memory of a running model goes.
struct MemoryUse {
  std::int64_t context_tokens = 0;  ///< of each sequence
  std::int64_t sequences = 1;
  std::uint64_t weight_bytes = 0;   ///< all safetensors files
  std::uint64_t cache_bytes = 0;    ///< keys and values of all sequences
  std::uint64_t scratch_bytes = 0;  ///< allowance for activations and the process itself

  [[nodiscard]] std::uint64_t total() const { return weight_bytes + cache_bytes + scratch_bytes; }
};

/// The formats of the KV cache, where the profile priced them.
struct CachePlan {
  std::vector<kernels::cpu::CacheFormat> blocks;  ///< packed or f16, keys and values apart
  double cost = 0;                                ///< Σ of what keys and values of each block cost alone
  double predicted_kl = 0;                        ///< of the cache alone, nats a token: an upper bound
  double predicted_kl_standard_error = 0;

  /// Mean bits of a cached value, scales and biases left out.
  [[nodiscard]] double bits() const;
};

/// Bits of a storage as plans name them: 3 to 8, or 16.
int cache_bits(kernels::cpu::CacheStorage storage);

/// How fast the model will decode, where that was limited.
struct TokenTime {
  double seconds_per_token = 0;  ///< predicted from a latency table; > 0
  double limit_seconds = 0;      ///< that was asked for

  [[nodiscard]] double tokens_per_second() const { return 1 / seconds_per_token; }
};

struct Plan {
  profile::ModelFacts model;
  std::uint64_t budget_bytes = 0;  ///< limit on `bytes` that was asked for; 0 where there was none
  std::uint64_t bytes = 0;         ///< all safetensors files of the checkpoint, headers included: exact
  double bits_per_weight = 0;      ///< bytes · 8 / parameters
  double predicted_kl = 0;         ///< nats a token; with the KV cache's where `cache` is set
  double predicted_kl_standard_error = 0;
  double gap = 0;                      ///< proven relative distance to the least Σ cost within the budget
  double seconds = 0;                  ///< spent planning
  std::optional<MemoryUse> memory;     ///< where the budget was one of memory
  std::optional<CachePlan> cache;      ///< only with `memory`
  std::optional<TokenTime> latency;    ///< where the time of a token was limited
  std::vector<PlannedModule> modules;  ///< in the model's order
  std::vector<io::TensorSpec> fixed;   ///< copied as they are
  /// File of the activation statistics that the encoders weigh errors with (profile/importance.h), relative
  /// to the folder of plan.json; empty where there is none.
  std::string importance;
};

/// The tensors of the checkpoint in the order they are written: the blocks' modules, then embeddings and head
/// (whose inputs an encoder knows last); of each module P.weight (U32), P.scales and P.biases, or P.weight in
/// the model's dtype where it is dense; then the fixed ones.
std::vector<io::TensorSpec> checkpoint_tensors(const Plan& plan);

/// The format of most weights that are quantized; dense where no module is.
quant::Format commonest_format(const Plan& plan);

/// Bytes of all safetensors files of the checkpoint, headers included, as io::layout_shards lays them.
std::uint64_t exact_bytes(const Plan& plan);

/// The rules beyond types: those of check_sensitivity, bytes of each module and of the whole as they follow
/// from the formats, bytes ≤ budget and seconds ≤ limit where there is one; of the KV cache a format for
/// every block, and memory's cache_bytes as they follow from them. bad_input naming `where` and the module or
/// block.
Status check_plan(const Plan& plan, const std::string& where);

/// Reads and checks.
Result<Plan> plan_from_json(const Json& json, const std::string& where);
Result<Plan> read_plan(const std::filesystem::path& path);

/// Checks, then replaces the file atomically. Doubles read back exactly.
Status write_plan(const std::filesystem::path& path, const Plan& plan);
Json plan_to_json(const Plan& plan);

}  // namespace optiq::plan
