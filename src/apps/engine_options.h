// How the CPU engine computes, as run, chat, bench and eval take it.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <optional>
#include <string>

#include "optiq/engine/engine.h"

namespace optiq::apps {

/// --kv, --kv-keys, --kv-values and --kv-rotate, as given.
struct CacheArguments {
  std::optional<kernels::cpu::CacheStorage> both, keys, values;
  bool rotate = false;

  [[nodiscard]] bool is_given() const { return both || keys || values; }
  /// f16 where nothing was given.
  [[nodiscard]] kernels::cpu::CacheFormat format() const;
};
void add_cache_options(CLI::App* verb, CacheArguments& args);

struct EngineArguments {
  engine::Options options;  ///< all but the cache
  CacheArguments cache;

  /// The options for a model: the cache that was given, or else that of its plan, or f16. Errors: those of
  /// reading its optiq.json; usage where it cannot rotate.
  [[nodiscard]] Result<engine::Options> options_for(const std::string& model) const;
};
/// Adds --precise, --mapped and the cache's. `args` is filled when the command line is parsed and must
/// outlive it.
void add_engine_options(CLI::App* verb, EngineArguments& args);

/// "KV cache as planned: 4.6 bits a value" with a line break where the formats are a plan's; else empty.
std::string planned_cache_line(const engine::Options& options);

/// The names of --kv.
const std::map<std::string, kernels::cpu::CacheStorage>& cache_storages();

}  // namespace optiq::apps
