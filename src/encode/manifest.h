// The two JSON files of an encoded checkpoint that say how it was quantized.
#pragma once

#include <filesystem>

#include "optiq/base/json.h"
#include "optiq/io/checkpoint.h"
#include "optiq/plan/plan.h"

namespace optiq::encode {

inline constexpr std::string_view kManifestFile = "optiq.json";
inline constexpr std::string_view kConfigFile = "config.json";
/// The two names of the same object in config.json: mlx-lm's, and the one of Hugging Face tools.
inline constexpr std::string_view kQuantizationKeys[] = {"quantization", "quantization_config"};

/// The value of "quantization": the commonest format, then every module of the plan, false where it is dense.
/// null where the plan leaves every module dense: that is a plain checkpoint.
Json quantization_json(const plan::Plan& plan);

/// The source's config with "quantization" and "quantization_config" at its end.
Json config_json(const Json& source_config, const plan::Plan& plan);

/// What optiq.json holds. Where the source was folded, its own source is named.
struct Manifest {
  plan::Plan plan;
  std::filesystem::path source;         ///< the full-precision checkpoint's folder
  std::uint64_t source_bytes = 0;       ///< of its safetensors files
  std::string folds = {};               ///< of the weights before they were encoded: "r1,awq"; mostly none
  std::uint64_t shard_limit_bytes = 0;  ///< of the files beside it
};

/// Of a checkpoint that is encoded from `source`.
Result<Manifest> make_manifest(const io::Checkpoint& source, const plan::Plan& plan,
                               std::uint64_t shard_limit_bytes);

Json manifest_to_json(const Manifest& manifest);
/// Reads and checks, the plan too.
Result<Manifest> read_manifest(const std::filesystem::path& path);

}  // namespace optiq::encode
