#include "manifest.h"
#include "optiq/base/file.h"
#include "optiq/encode/encode.h"

namespace optiq::encode {
namespace {

namespace fs = std::filesystem;

Status carry_over(const fs::path& from, const fs::path& to) {
  OPTIQ_TRY(const std::string text, read_text_file(from));
  return write_file_atomically(to, text);
}

}  // namespace

Status replace_tensors(const fs::path& folder, const TensorBytes& tensors) {
  OPTIQ_TRY(const Manifest manifest, read_manifest(folder / kManifestFile));
  OPTIQ_TRY(const io::Checkpoint old, io::Checkpoint::open(folder));
  const std::vector<io::TensorSpec> specs = plan::checkpoint_tensors(manifest.plan);
  for (const auto& [name, bytes] : tensors) {
    if (old.find(name) == nullptr)
      return fail(ErrorCode::internal, "{}: no tensor {} to replace", folder.string(), name);
  }
  OPTIQ_TRY(StagedDirectory staging, StagedDirectory::create(folder, kManifestFile));
  OPTIQ_TRY(
      io::CheckpointWriter writer,
      io::CheckpointWriter::create(staging.path(), io::layout_shards(specs, manifest.shard_limit_bytes)));
  for (const io::TensorSpec& spec : specs) {
    OPTIQ_TRY(const io::TensorView view, old.require(spec.name));
    const auto replaced = tensors.find(spec.name);
    OPTIQ_CHECK(writer.write(spec.name, replaced == tensors.end() ? view.bytes : replaced->second));
  }
  OPTIQ_CHECK(writer.finish(static_cast<std::uint64_t>(manifest.plan.model.parameters)));
  OPTIQ_CHECK(io::copy_sidecar_files(folder, staging.path()));
  for (const std::string_view file : {kConfigFile, kManifestFile})
    OPTIQ_CHECK(carry_over(folder / file, staging.path() / file));
  return staging.commit();
}

}  // namespace optiq::encode
