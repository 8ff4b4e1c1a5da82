#include "optiq/encode/encode.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "manifest.h"
#include "optiq/base/file.h"
#include "optiq/base/threads.h"
#include "optiq/model/stream.h"
#include "optiq/profile/grams.h"
#include "partial.h"

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

/// The matrix that an earlier process wrote.
Result<quant::QuantizedMatrix> read_back(const PartialFiles& files, const plan::PlannedModule& module,
                                         DType dtype) {
  quant::QuantizedMatrix matrix{module.out_features, module.in_features, module.format, dtype, {}, {}, {}};
  OPTIQ_TRY(const auto weight, files.read(module.name + ".weight"));
  matrix.weight.resize(weight.size() / sizeof(std::uint32_t));
  std::memcpy(matrix.weight.data(), weight.data(), weight.size());
  OPTIQ_TRY(matrix.scales, files.read(module.name + ".scales"));
  OPTIQ_TRY(matrix.biases, files.read(module.name + ".biases"));
  return matrix;
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
           const EncodeOptions& options, PartialFiles files, const Progress& progress)
      : source_(&source),
        plan_(plan),
        calibration_(calibration),
        options_(options),
        files_(std::move(files)),
        progress_(progress) {}

  Status run() {
    OPTIQ_CHECK(needs_grams(plan_) ? write_measured_modules() : write_modules());
    for (const io::TensorSpec& tensor : plan_.fixed) OPTIQ_CHECK(copy(tensor));
    report("finishing", static_cast<double>(plan_.model.parameters));
    return files_.finish(static_cast<std::uint64_t>(plan_.model.parameters));
  }

 private:
  Status write_modules() {
    for (std::int64_t layer = 0; layer < plan_.model.layers; ++layer) OPTIQ_CHECK(write_stage(layer, {}));
    return write_stage(-1, {}).map([](const auto&) {});
  }

  /// Block by block behind the pass that measures their inputs.
  Status write_measured_modules() {
    OPTIQ_TRY(model_, model::Model::open(source_->folder(), source_->access()));
    const model::Model& model = *model_;
    const std::uint64_t least = profile::gram_walk_bytes(model, calibration_.tokens.tokens, true);
    OPTIQ_CHECK(check_memory(options_.memory, least, "encode by gptq"));
    source_ = &model.checkpoint();  // the same pages for the pass and for the encoder
    const profile::WalkOptions options{.compute = kernels::Compute::bf16,
                                       .replaces = true,
                                       .wants = [&](std::int64_t layer) { return !is_done(layer); },
                                       .weights = &calibration_.weights,
                                       .memory = options_.memory};
    return profile::walk_grams(
        model, calibration_.tokens, options,
        [&](std::int64_t layer, const profile::Grams& grams) { return write_stage(layer, grams); }, {});
  }

  /// Whether all modules of a stage were written before this process began.
  [[nodiscard]] bool is_done(std::int64_t layer) const {
    return std::ranges::all_of(plan_.modules, [&](const plan::PlannedModule& module) {
      return module.layer != layer || is_done(module);
    });
  }

  [[nodiscard]] bool is_done(const plan::PlannedModule& module) const {
    return files_.is_done(module.name + (module.format.is_dense() ? ".weight" : ".biases"));
  }

  /// Writes the modules of a block, or of none (-1), and returns what a measured block became.
  Result<profile::Replacements> write_stage(std::int64_t layer, const profile::Grams& grams) {
    profile::Replacements written;
    for (std::size_t i = 0; i < plan_.modules.size(); ++i) {
      const plan::PlannedModule& module = plan_.modules[i];
      if (module.layer != layer) continue;
      report("encoding", done_);
      OPTIQ_TRY(const auto matrix, write_module(module, grams));
      if (matrix && layer >= 0 && needs_grams(plan_))
        written.insert_or_assign(module.name, dequantized(*matrix));
      done_ += static_cast<double>(module.out_features) * static_cast<double>(module.in_features);
    }
    return written;
  }

  /// What was written; nothing for a dense module.
  Result<std::optional<quant::QuantizedMatrix>> write_module(const plan::PlannedModule& module,
                                                             const profile::Grams& grams) {
    const io::TensorSpec weight{
        module.name + ".weight", plan_.model.dtype, {module.out_features, module.in_features}};
    if (module.format.is_dense()) {
      OPTIQ_CHECK(copy(weight));
      return std::nullopt;
    }
    if (is_done(module)) return read_back(files_, module, plan_.model.dtype);
    OPTIQ_TRY(const io::TensorView view, require(*source_, weight));
    read_ahead(module);
    const quant::MatrixView matrix{module.out_features, module.in_features, view.dtype, view.bytes};
    OPTIQ_TRY(quant::QuantizedMatrix encoded,
              quant::encode(module.encoder, matrix, module.format, plan_.model.dtype,
                            inputs_of(module.name, grams), weight.name));
    view.file.release(view.bytes);
    OPTIQ_CHECK(files_.write(weight.name, std::as_bytes(std::span(encoded.weight))));
    OPTIQ_CHECK(files_.write(module.name + ".scales", encoded.scales));
    OPTIQ_CHECK(files_.write(module.name + ".biases", encoded.biases));
    return encoded;
  }

  /// The weight that comes behind this module's in the order of writing. A pass that measures reads whole
  /// blocks ahead by itself.
  void read_ahead(const plan::PlannedModule& module) {
    if (needs_grams(plan_)) return;
    const auto next = next_of_.find(module.name);
    const io::TensorView* view = next == next_of_.end() ? nullptr : source_->find(next->second + ".weight");
    if (view != nullptr) ahead_.begin({{view->file, view->bytes}});
  }

  /// Module → the one that is written next.
  static std::map<std::string, std::string> successors(const plan::Plan& plan) {
    std::vector<const plan::PlannedModule*> order;
    for (const plan::PlannedModule& module : plan.modules) order.push_back(&module);
    const auto stage = [&](const plan::PlannedModule* module) {
      return module->layer < 0 ? plan.model.layers : module->layer;
    };
    std::ranges::stable_sort(order, {}, stage);
    std::map<std::string, std::string> next;
    for (std::size_t i = 0; i + 1 < order.size(); ++i) next[order[i]->name] = order[i + 1]->name;
    return next;
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
    OPTIQ_TRY(const io::TensorView view, require(*source_, tensor));
    OPTIQ_CHECK(files_.write(tensor.name, view.bytes));
    view.file.release(view.bytes);
    return {};
  }

  void report(std::string_view what, double done) const {
    report_progress(progress_, what, done, static_cast<double>(plan_.model.parameters));
  }

  const io::Checkpoint* source_;
  std::optional<model::Model> model_;  ///< where inputs are measured
  const plan::Plan& plan_;
  const Calibration& calibration_;
  const EncodeOptions& options_;
  PartialFiles files_;
  std::map<std::string, std::string> next_of_ = successors(plan_);
  ReadAhead ahead_;
  const Progress& progress_;
  double done_ = 0;
};

/// Everything that the bytes in the folder depend on.
std::string work_identity(const io::Checkpoint& source, const Manifest& manifest,
                          const Calibration& calibration) {
  std::uint64_t known = kEmptyFingerprint;
  for (const auto& [module, values] : calibration.importance) {
    known = fingerprint(std::as_bytes(std::span(module)), known);
    known = fingerprint(std::as_bytes(std::span(values)), known);
  }
  known = fingerprint(std::as_bytes(std::span(calibration.tokens.ids)), known);
  for (const auto& [module, values] : calibration.weights) {
    known = fingerprint(std::as_bytes(std::span(module)), known);
    known = fingerprint(std::as_bytes(std::span(values)), known);
  }
  return fmt::format("optiq encode 1\n{}\n{} {} {}\n{}", manifest_to_json(manifest).dump(), known,
                     calibration.tokens.tokens, kernels::cpu_isa(), io::checkpoint_identity(source.folder()));
}

Status write_folder(const io::Checkpoint& source, const plan::Plan& plan, const Calibration& calibration,
                    const EncodeOptions& options, const fs::path& folder, const Progress& progress) {
  OPTIQ_TRY(const Manifest manifest, make_manifest(source, plan, options.shard_limit_bytes));
  const io::ShardLayout layout = io::layout_shards(plan::checkpoint_tensors(plan), options.shard_limit_bytes);
  OPTIQ_TRY(PartialFiles files,
            PartialFiles::open(folder, layout, work_identity(source, manifest, calibration),
                               std::chrono::duration<double>(options.record_seconds)));
  OPTIQ_CHECK(check_free_disk(folder.parent_path(), files.missing_bytes(), "the weights to write"));
  OPTIQ_CHECK(Encoding(source, plan, calibration, options, std::move(files), progress).run());
  OPTIQ_CHECK(io::copy_sidecar_files(source.folder(), folder));
  OPTIQ_CHECK(write_file_atomically(folder / kConfigFile, format_json(config_json(source.config(), plan))));
  return write_file_atomically(folder / kManifestFile, format_json(manifest_to_json(manifest)));
}

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
    OPTIQ_TRY(calibration.weights, profile::read_token_weights(path, calibration.tokens));
  }
  return calibration;
}

std::uint64_t disk_needed(const plan::Plan& plan, const EncodeOptions& options) {
  return io::layout_shards(plan::checkpoint_tensors(plan), options.shard_limit_bytes).total_bytes;
}

std::uint64_t memory_needed(const io::Checkpoint& source, const plan::Plan& plan) {
  std::uint64_t largest = 0;
  for (const plan::PlannedModule& module : plan.modules) {
    const io::TensorView* weight = source.find(module.name + ".weight");
    if (weight != nullptr) largest = std::max(largest, weight->bytes.size() + module.bytes);
  }
  return kProcessBytes + largest;
}

Status encode_checkpoint(const io::Checkpoint& source, const plan::Plan& plan, const Calibration& calibration,
                         const fs::path& out, const EncodeOptions& options, const Progress& progress) {
  OPTIQ_CHECK(check_source(source, plan));
  if (needs_grams(plan) && calibration.tokens.sequences == 0) {
    return fail(ErrorCode::bad_input,
                "the plan encodes by gptq: expected the calibration tokens of its profile, got none");
  }
  OPTIQ_CHECK(check_memory(options.memory, memory_needed(source, plan), "encode"));
  OPTIQ_TRY(StagedDirectory staging, StagedDirectory::resume(out, kManifestFile));
  const Status written = write_folder(source, plan, calibration, options, staging.path(), progress);
  if (written) return staging.commit();
  // What can be gone on with, once there is room.
  if (written.error().code == ErrorCode::out_of_resources && PartialFiles::exist(staging.path()))
    staging.keep();
  return written;
}

}  // namespace optiq::encode
