#include "engine_options.h"

#include <algorithm>

#include "optiq/encode/encode.h"
#include "optiq/kernels/head_rotation.h"

namespace optiq::apps {
namespace {

using kernels::cpu::CacheFormat;
using kernels::cpu::CacheStorage;

const std::map<std::string, CacheStorage> kBits{{"3", CacheStorage::packed3}, {"4", CacheStorage::packed4},
                                                {"5", CacheStorage::packed5}, {"6", CacheStorage::packed6},
                                                {"8", CacheStorage::packed8}, {"16", CacheStorage::f16}};

Status check_rotation(const std::filesystem::path& model, const engine::Options& options) {
  const std::filesystem::path file = model / "config.json";
  OPTIQ_TRY(const Json json, read_json_file(file));
  OPTIQ_TRY(const auto config, model::parse_config(json, file.string()));
  if (!kernels::cpu::can_mix_heads(static_cast<std::size_t>(config.head_dim))) {
    return fail(ErrorCode::usage, "--kv-rotate: {}: expected a head_dim that is a power of two, got {}",
                model.string(), config.head_dim);
  }
  for (std::size_t i = 0; i < std::max<std::size_t>(options.block_caches.size(), 1); ++i) {
    if (options.rotates(i)) return {};
  }
  return fail(ErrorCode::usage, "--kv-rotate: expected packed keys, as by --kv 4, got none");
}

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

CacheFormat CacheArguments::format() const {
  const CacheStorage rest = both.value_or(CacheStorage::f16);
  return {keys.value_or(rest), values.value_or(rest)};
}

void add_cache_options(CLI::App* verb, CacheArguments& args) {
  verb->add_option("--kv", args.both,
                   "How keys and values are cached (default: as the model's plan says, or f16); 3 to 8: so "
                   "many bits and half a one for scales and biases, the newest tokens in f16; int8: CPU only")
      ->transform(CLI::CheckedTransformer(cache_storages()));
  verb->add_option("--kv-keys", args.keys, "Bits of cached keys (default: as --kv)")
      ->transform(CLI::CheckedTransformer(kBits));
  verb->add_option("--kv-values", args.values, "Bits of cached values (default: as --kv)")
      ->transform(CLI::CheckedTransformer(kBits));
  verb->add_flag(
      "--kv-rotate", args.rotate,
      "CPU: mix the channels of each head before keys are packed: they lose less (head_dim a power "
      "of two)");
  verb->parse_complete_callback([&args] {
    if (!args.format().is_valid())
      throw CLI::ValidationError("--kv",
                                 "expected 3, 4, 5, 6, 8 or 16 bits of keys and of values, or f32, bf16 or "
                                 "int8 of both");
  });
}

Result<engine::Options> EngineArguments::options_for(const std::string& model) const {
  engine::Options all = options;
  all.cache = cache.format();
  if (!cache.is_given()) {
    OPTIQ_TRY(all.block_caches, encode::planned_caches(model));
  }
  all.rotate_keys = cache.rotate;
  if (cache.rotate) OPTIQ_CHECK(check_rotation(model, all));
  return all;
}

void add_engine_options(CLI::App* verb, EngineArguments& args) {
  verb->add_flag_callback(
      "--precise", [&args] { args.options.compute = kernels::Compute::f32; },
      "CPU: round no activations to int8 (slower; exact up to f32 rounding and --kv)");
  verb->add_flag_callback(
      "--mapped", [&args] { args.options.huge_pages = false; },
      "CPU: leave the weights in the file's mapping (slower, but the system may drop their pages)");
  add_cache_options(verb, args.cache);
}

std::string planned_cache_line(const engine::Options& options) {
  if (options.block_caches.empty()) return "";
  return fmt::format("KV cache as planned: {:.2f} bits a value (--kv says otherwise)\n",
                     plan::CachePlan{.blocks = options.block_caches}.bits());
}

}  // namespace optiq::apps
