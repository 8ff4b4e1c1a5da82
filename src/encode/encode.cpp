#include "optiq/encode/encode.h"

#include <algorithm>

#include "manifest.h"
#include "optiq/base/file.h"
#include "optiq/base/threads.h"
#include "optiq/profile/grams.h"

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

bool needs_grams(const plan::Plan& plan) {
  return std::ranges::any_of(plan.modules, [](const plan::PlannedModule& module) {
    return !module.format.is_dense() && module.encoder == quant::Encoder::gptq;
  });
}

/// The weight that the file will give back, f32 [out, in].
model::mx::array dequantized(const quant::QuantizedMatrix& matrix) {
  model::mx::array result = model::mx::zeros(
      {static_cast<int>(matrix.out_features), static_cast<int>(matrix.in_features)}, model::mx::float32);
  result.eval();
  const auto in = static_cast<std::size_t>(matrix.in_features);
  auto* values = result.data<float>();
  parallel_for(static_cast<std::size_t>(matrix.out_features), 64, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row)
      quant::dequantize_row(matrix, static_cast<std::int64_t>(row), std::span(values + row * in, in));
  });
  return result;
}

class Encoding {
 public:
  Encoding(const io::Checkpoint& source, const plan::Plan& plan, const Calibration& calibration,
           io::CheckpointWriter writer, const Progress& progress)
      : source_(source),
        plan_(plan),
        calibration_(calibration),
        writer_(std::move(writer)),
        progress_(progress) {}

  Status run() {
    OPTIQ_CHECK(needs_grams(plan_) ? write_measured_modules() : write_modules());
    for (const io::TensorSpec& tensor : plan_.fixed) OPTIQ_CHECK(copy(tensor));
    report("finishing", static_cast<double>(plan_.model.parameters));
    return writer_.finish(static_cast<std::uint64_t>(plan_.model.parameters));
  }

 private:
  Status write_modules() {
    for (std::int64_t layer = 0; layer < plan_.model.layers; ++layer) OPTIQ_CHECK(write_stage(layer, {}));
    return write_stage(-1, {}).map([](const auto&) {});
  }

  /// Block by block behind the pass that measures their inputs.
  Status write_measured_modules() {
    OPTIQ_TRY(const auto model, model::Model::open(source_.folder()));
    return profile::walk_grams(
        model, calibration_.tokens, {.compute = kernels::Compute::bf16, .replaces = true},
        [&](std::int64_t layer, const profile::Grams& grams) { return write_stage(layer, grams); }, {});
  }

  /// Writes the modules of a block, or of none (-1), and returns what they became.
  Result<profile::Replacements> write_stage(std::int64_t layer, const profile::Grams& grams) {
    profile::Replacements written;
    for (const plan::PlannedModule& module : plan_.modules) {
      if (module.layer != layer) continue;
      report("encoding", done_);
      OPTIQ_CHECK(write_module(module, grams, written));
      done_ += static_cast<double>(module.out_features) * static_cast<double>(module.in_features);
    }
    return written;
  }

  Status write_module(const plan::PlannedModule& module, const profile::Grams& grams,
                      profile::Replacements& written) {
    const io::TensorSpec weight{
        module.name + ".weight", plan_.model.dtype, {module.out_features, module.in_features}};
    if (module.format.is_dense()) return copy(weight);
    OPTIQ_TRY(const io::TensorView view, require(source_, weight));
    const quant::MatrixView matrix{module.out_features, module.in_features, view.dtype, view.bytes};
    OPTIQ_TRY(const quant::QuantizedMatrix encoded,
              quant::encode(module.encoder, matrix, module.format, plan_.model.dtype,
                            inputs_of(module.name, grams), weight.name));
    if (!grams.empty()) written.insert_or_assign(module.name, dequantized(encoded));
    OPTIQ_CHECK(writer_.write(weight.name, std::as_bytes(std::span(encoded.weight))));
    OPTIQ_CHECK(writer_.write(module.name + ".scales", encoded.scales));
    return writer_.write(module.name + ".biases", encoded.biases);
  }

  [[nodiscard]] quant::Inputs inputs_of(const std::string& module, const profile::Grams& grams) const {
    quant::Inputs inputs;
    const auto importance = calibration_.importance.find(module);
    if (importance != calibration_.importance.end()) inputs.importance = importance->second;
    const auto gram = grams.find(module);
    if (gram != grams.end()) inputs.gram = gram->second.get();
    return inputs;
  }

  Status copy(const io::TensorSpec& tensor) {
    OPTIQ_TRY(const io::TensorView view, require(source_, tensor));
    return writer_.write(tensor.name, view.bytes);
  }

  void report(std::string_view what, double done) const {
    report_progress(progress_, what, done, static_cast<double>(plan_.model.parameters));
  }

  const io::Checkpoint& source_;
  const plan::Plan& plan_;
  const Calibration& calibration_;
  io::CheckpointWriter writer_;
  const Progress& progress_;
  double done_ = 0;
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

Result<Calibration> read_calibration(const fs::path& path, const plan::Plan& plan) {
  Calibration calibration;
  if (path.empty()) return calibration;
  OPTIQ_TRY(calibration.importance, profile::read_importance(path));
  if (needs_grams(plan)) {
    OPTIQ_TRY(calibration.tokens, profile::read_calibration_tokens(path));
  }
  return calibration;
}

Status encode_checkpoint(const io::Checkpoint& source, const plan::Plan& plan, const Calibration& calibration,
                         const fs::path& out, const EncodeOptions& options, const Progress& progress) {
  OPTIQ_CHECK(check_source(source, plan));
  if (needs_grams(plan) && calibration.tokens.sequences == 0) {
    return fail(ErrorCode::bad_input,
                "the plan encodes by gptq: expected the calibration tokens of its profile, got none");
  }
  OPTIQ_TRY(StagedDirectory staging, StagedDirectory::create(out, kManifestFile));
  OPTIQ_TRY(io::CheckpointWriter writer,
            io::CheckpointWriter::create(staging.path(), io::layout_shards(plan::checkpoint_tensors(plan),
                                                                           options.shard_limit_bytes)));
  OPTIQ_CHECK(Encoding(source, plan, calibration, std::move(writer), progress).run());
  OPTIQ_CHECK(io::copy_sidecar_files(source.folder(), staging.path()));
  OPTIQ_CHECK(
      write_file_atomically(staging.path() / kConfigFile, format_json(config_json(source.config(), plan))));
  OPTIQ_TRY(const Manifest manifest, make_manifest(source, plan, options.shard_limit_bytes));
  OPTIQ_CHECK(write_file_atomically(staging.path() / kManifestFile, format_json(manifest_to_json(manifest))));
  return staging.commit();
}

}  // namespace optiq::encode
