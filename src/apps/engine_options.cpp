#include "engine_options.h"

#include <memory>
#include <optional>

namespace optiq::apps {
namespace {

using kernels::cpu::CacheFormat;
using kernels::cpu::CacheStorage;

const std::map<std::string, CacheStorage> kBits{{"3", CacheStorage::packed3}, {"4", CacheStorage::packed4},
                                                {"5", CacheStorage::packed5}, {"6", CacheStorage::packed6},
                                                {"8", CacheStorage::packed8}, {"16", CacheStorage::f16}};

/// What was given on the command line.
struct CacheArguments {
  CacheStorage both = CacheStorage::f16;
  std::optional<CacheStorage> keys, values;

  [[nodiscard]] CacheFormat format() const { return {keys.value_or(both), values.value_or(both)}; }
};

}  // namespace

const std::map<std::string, CacheStorage>& cache_storages() {
  static const auto storages = [] {
    auto names = kBits;
    names.insert({{"f32", CacheStorage::f32},
                  {"f16", CacheStorage::f16},
                  {"bf16", CacheStorage::bf16},
                  {"int8", CacheStorage::int8}});
    return names;
  }();
  return storages;
}

void add_cache_options(CLI::App* verb, CacheFormat& format) {
  auto args = std::make_shared<CacheArguments>();
  verb->add_option("--kv", args->both,
                   "CPU: how keys and values are cached; 3 to 8: so many bits and half a one for scales and "
                   "biases, the newest tokens in f16")
      ->transform(CLI::CheckedTransformer(cache_storages()))
      ->default_str("f16");
  verb->add_option("--kv-keys", args->keys, "CPU: bits of cached keys (default: as --kv)")
      ->transform(CLI::CheckedTransformer(kBits));
  verb->add_option("--kv-values", args->values, "CPU: bits of cached values (default: as --kv)")
      ->transform(CLI::CheckedTransformer(kBits));
  verb->parse_complete_callback([args, &format] {
    format = args->format();
    if (!format.is_valid())
      throw CLI::ValidationError("--kv",
                                 "expected 3, 4, 5, 6, 8 or 16 bits of keys and of values, or f32, bf16 or "
                                 "int8 of both");
  });
}

void add_engine_options(CLI::App* verb, engine::Options& options) {
  verb->add_flag_callback(
      "--precise", [&options] { options.compute = kernels::Compute::f32; },
      "CPU: round no activations to int8 (slower; exact up to f32 rounding and --kv)");
  verb->add_flag_callback(
      "--mapped", [&options] { options.huge_pages = false; },
      "CPU: leave the weights in the file's mapping (slower, but the system may drop their pages)");
  add_cache_options(verb, options.cache);
}

}  // namespace optiq::apps
