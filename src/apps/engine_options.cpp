#include "engine_options.h"

namespace optiq::apps {

const std::map<std::string, kernels::cpu::CacheStorage>& cache_storages() {
  using kernels::cpu::CacheStorage;
  static const std::map<std::string, CacheStorage> storages{{"f32", CacheStorage::f32},
                                                            {"f16", CacheStorage::f16},
                                                            {"bf16", CacheStorage::bf16},
                                                            {"int8", CacheStorage::int8}};
  return storages;
}

void add_engine_options(CLI::App* verb, engine::Options& options) {
  verb->add_flag_callback(
      "--precise", [&options] { options.compute = kernels::Compute::f32; },
      "CPU: round no activations to int8 (slower; exact up to f32 rounding and --kv)");
  verb->add_flag_callback(
      "--mapped", [&options] { options.huge_pages = false; },
      "CPU: leave the weights in the file's mapping (slower, but the system may drop their pages)");
  verb->add_option("--kv", options.cache, "CPU: how keys and values are cached")
      ->transform(CLI::CheckedTransformer(cache_storages()))
      ->default_str("f16");
}

}  // namespace optiq::apps
