// How the CPU engine computes, as run, chat and bench take it.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>

#include "optiq/engine/engine.h"

namespace optiq::apps {

/// Adds --kv, --kv-keys and --kv-values, likewise.
void add_cache_options(CLI::App* verb, kernels::cpu::CacheFormat& format);

/// Adds --precise, --mapped and the cache's. `options` is filled when the command line is parsed and must
/// outlive it.
void add_engine_options(CLI::App* verb, engine::Options& options);

/// The names of --kv.
const std::map<std::string, kernels::cpu::CacheStorage>& cache_storages();

}  // namespace optiq::apps
