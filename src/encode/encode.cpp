#include "optiq/encode/encode.h"

#include "manifest.h"
#include "optiq/base/file.h"

namespace optiq::encode {
namespace {

namespace fs = std::filesystem;

/// The source's tensor, as the plan expects it.
Result<io::TensorView> require(const io::Checkpoint& source, const io::TensorSpec& expected) {
  OPTIQ_TRY(io::TensorView view, source.require(expected.name));
  if (view.shape != expected.shape || view.dtype != expected.dtype) {
    return fail(ErrorCode::bad_input, "{}: tensor {}: the plan is for {} [{}], the checkpoint has {} [{}]",
                source.folder().string(), expected.name, dtype_name(expected.dtype),
                fmt::join(expected.shape, ", "), dtype_name(view.dtype), fmt::join(view.shape, ", "));
  }
  return view;
}

class Encoding {
 public:
  Encoding(const io::Checkpoint& source, const plan::Plan& plan, const profile::Importance& importance,
           io::CheckpointWriter writer)
      : source_(source), plan_(plan), importance_(importance), writer_(std::move(writer)) {}

  Status run(const Progress& progress) {
    double done = 0;
    for (const plan::PlannedModule& module : plan_.modules) {
      report_progress(progress, "encoding", done, static_cast<double>(plan_.model.parameters));
      OPTIQ_CHECK(write_module(module));
      done += static_cast<double>(module.out_features) * static_cast<double>(module.in_features);
    }
    for (const io::TensorSpec& tensor : plan_.fixed) OPTIQ_CHECK(copy(tensor));
    const auto parameters = static_cast<double>(plan_.model.parameters);
    report_progress(progress, "finishing", parameters, parameters);
    return writer_.finish(static_cast<std::uint64_t>(plan_.model.parameters));
  }

 private:
  Status write_module(const plan::PlannedModule& module) {
    const io::TensorSpec weight{
        module.name + ".weight", plan_.model.dtype, {module.out_features, module.in_features}};
    if (module.format.is_dense()) return copy(weight);
    OPTIQ_TRY(const io::TensorView view, require(source_, weight));
    const quant::MatrixView matrix{module.out_features, module.in_features, view.dtype, view.bytes};
    const auto importance = importance_.find(module.name);
    OPTIQ_TRY(const quant::QuantizedMatrix encoded,
              quant::encode(module.encoder, matrix, module.format, plan_.model.dtype,
                            importance == importance_.end() ? std::span<const float>() : importance->second,
                            weight.name));
    OPTIQ_CHECK(writer_.write(weight.name, std::as_bytes(std::span(encoded.weight))));
    OPTIQ_CHECK(writer_.write(module.name + ".scales", encoded.scales));
    return writer_.write(module.name + ".biases", encoded.biases);
  }

  Status copy(const io::TensorSpec& tensor) {
    OPTIQ_TRY(const io::TensorView view, require(source_, tensor));
    return writer_.write(tensor.name, view.bytes);
  }

  const io::Checkpoint& source_;
  const plan::Plan& plan_;
  const profile::Importance& importance_;
  io::CheckpointWriter writer_;
};

Status check_source(const io::Checkpoint& source, const plan::Plan& plan) {
  for (const std::string_view key : kQuantizationKeys) {
    const auto found = source.config().find(std::string(key));
    if (found == source.config().end() || found->is_null()) continue;
    return fail(ErrorCode::bad_input,
                "{}: expected a full-precision checkpoint, but its config.json has \"{}\"",
                source.folder().string(), key);
  }
  return plan::check_plan(plan, "plan");
}

}  // namespace

Status check_output(const fs::path& out) {
  // Begun and, when it goes out of scope, taken back.
  OPTIQ_TRY(const StagedDirectory staging, StagedDirectory::create(out, kManifestFile));
  return {};
}

Status encode_checkpoint(const io::Checkpoint& source, const plan::Plan& plan,
                         const profile::Importance& importance, const fs::path& out,
                         const EncodeOptions& options, const Progress& progress) {
  OPTIQ_CHECK(check_source(source, plan));
  OPTIQ_TRY(StagedDirectory staging, StagedDirectory::create(out, kManifestFile));
  OPTIQ_TRY(io::CheckpointWriter writer,
            io::CheckpointWriter::create(staging.path(), io::layout_shards(plan::checkpoint_tensors(plan),
                                                                           options.shard_limit_bytes)));
  OPTIQ_CHECK(Encoding(source, plan, importance, std::move(writer)).run(progress));
  OPTIQ_CHECK(io::copy_sidecar_files(source.folder(), staging.path()));
  OPTIQ_CHECK(
      write_file_atomically(staging.path() / kConfigFile, format_json(config_json(source.config(), plan))));
  const Manifest manifest{plan, source.folder(), source.file_bytes(), options.shard_limit_bytes};
  OPTIQ_CHECK(write_file_atomically(staging.path() / kManifestFile, format_json(manifest_to_json(manifest))));
  return staging.commit();
}

}  // namespace optiq::encode
