#include "manifest.h"

#include "optiq/encode/encode.h"
#include "optiq/fold/fold.h"
#include "optiq/profile/model_facts.h"

namespace optiq::encode {
namespace {

constexpr std::string_view kFormat = "optiq-checkpoint";

Result<std::uint64_t> read_size(const JsonReader& reader, std::string_view key) {
  OPTIQ_TRY(const std::int64_t bytes, reader.integer(key));
  if (bytes <= 0) return fail(ErrorCode::bad_input, "{}: \"{}\" is {}", reader.where(), key, bytes);
  return static_cast<std::uint64_t>(bytes);
}

}  // namespace

Json quantization_json(const plan::Plan& plan) {
  const quant::Format common = plan::commonest_format(plan);
  if (common.is_dense()) return nullptr;
  Json json{{"group_size", common.group_size}, {"bits", common.bits}, {"mode", "affine"}};
  for (const plan::PlannedModule& module : plan.modules) {
    if (module.format.is_dense()) {
      json[module.name] = false;
    } else {
      json[module.name] = {{"group_size", module.format.group_size}, {"bits", module.format.bits}};
    }
  }
  return json;
}

Json config_json(const Json& source_config, const plan::Plan& plan) {
  Json config = source_config;
  const Json quantization = quantization_json(plan);
  for (const std::string_view key : kQuantizationKeys) {
    config.erase(std::string(key));
    if (!quantization.is_null()) config[std::string(key)] = quantization;
  }
  return config;
}

Result<Manifest> make_manifest(const io::Checkpoint& source, const plan::Plan& plan,
                               std::uint64_t shard_limit_bytes) {
  Manifest manifest{plan, source.folder(), source.file_bytes(), {}, shard_limit_bytes};
  OPTIQ_TRY(const auto folded, fold::read_provenance(source.folder()));
  if (!folded) return manifest;
  manifest.source = folded->source;
  manifest.source_bytes = folded->source_bytes;
  manifest.folds = folded->folds;
  return manifest;
}

Json manifest_to_json(const Manifest& manifest) {
  plan::Plan plan = manifest.plan;
  plan.seconds = 0;  // planned again, it shall be the same file
  Json json{{"format", kFormat},
            {"version", profile::kFileVersion},
            {"optiq_version", OPTIQ_VERSION},
            {"source", manifest.source.string()},
            {"source_bytes", manifest.source_bytes},
            {"shard_limit_bytes", manifest.shard_limit_bytes},
            {"plan", plan::plan_to_json(plan)}};
  if (!manifest.folds.empty()) json["folds"] = manifest.folds;
  return json;
}

Result<Manifest> read_manifest(const std::filesystem::path& path) {
  OPTIQ_TRY(const Json json, read_json_file(path));
  const JsonReader reader(json, path.string());
  OPTIQ_CHECK(profile::check_file_kind(reader, kFormat));
  Manifest manifest;
  OPTIQ_TRY(manifest.source, reader.string("source"));
  OPTIQ_TRY(manifest.source_bytes, read_size(reader, "source_bytes"));
  OPTIQ_TRY(manifest.shard_limit_bytes, read_size(reader, "shard_limit_bytes"));
  OPTIQ_TRY(manifest.folds, reader.string_or("folds", ""));
  OPTIQ_TRY(const JsonReader plan, reader.object("plan"));
  OPTIQ_TRY(manifest.plan, plan::plan_from_json(plan.json(), plan.where()));
  return manifest;
}

Result<std::vector<kernels::cpu::CacheFormat>> planned_caches(const std::filesystem::path& folder) {
  std::vector<kernels::cpu::CacheFormat> blocks;
  const std::filesystem::path path = folder / kManifestFile;
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return blocks;
  OPTIQ_TRY(const Manifest manifest, read_manifest(path));
  if (manifest.plan.cache) blocks = manifest.plan.cache->blocks;
  return blocks;
}

}  // namespace optiq::encode
