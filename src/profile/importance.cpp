#include "optiq/profile/importance.h"

#include <cmath>
#include <cstring>

#include "channel_energies.h"
#include "optiq/io/safetensors.h"
#include "walk.h"

namespace optiq::profile {

namespace mx = model::mx;
Result<Importance> measure_importance(const model::Model& model, const calibrate::TokenBatch& batch,
                                      kernels::Compute compute, const MemoryLimit& memory,
                                      const Progress& progress) {
  ChannelEnergies energies;
  double done = 0;
  const Watch watch{[&](const std::string& module, const mx::array& input) { energies.add(module, input); },
                    [&]() -> Status {
                      OPTIQ_CHECK(energies.evaluate());
                      const auto stages = static_cast<double>(model.config().layers + 1);
                      report_progress(progress, "measuring activations", ++done,
                                      stages * static_cast<double>(batch.sequences));
                      return {};
                    }};
  OPTIQ_TRY(Walk walk, Walk::begin({model, batch, compute, memory, model::pass_bytes(model, batch.tokens)}));
  for (std::int64_t layer = 0; layer < model.config().layers; ++layer)
    OPTIQ_CHECK(walk.advance(layer, &watch, nullptr));
  OPTIQ_CHECK(walk.watch(model::kOutsideBlocks, watch));
  return energies.means(batch.sequences * batch.tokens);
}

std::filesystem::path importance_path(const std::filesystem::path& sensitivity) {
  std::filesystem::path path = sensitivity;
  return path.replace_extension(".importance.safetensors");
}

namespace {

constexpr const char* kTokens = "calibration.tokens";

Status write_tensors(const std::filesystem::path& path, const Importance& importance,
                     const calibrate::TokenBatch& batch) {
  std::vector<io::TensorSpec> specs{{kTokens, DType::i32, {batch.sequences, batch.tokens}}};
  for (const auto& [module, values] : importance)
    specs.push_back({module, DType::f32, {static_cast<std::int64_t>(values.size())}});
  OPTIQ_TRY(auto writer, io::SafetensorsWriter::create(path, specs, {{"format", "optiq-importance"}}));
  OPTIQ_CHECK(writer.append(std::as_bytes(std::span(batch.ids))));
  for (const auto& [module, values] : importance)
    OPTIQ_CHECK(writer.append(std::as_bytes(std::span(values))));
  return writer.finish();
}

}  // namespace

Status write_importance(const std::filesystem::path& path, const Importance& importance,
                        const calibrate::TokenBatch& batch) {
  std::filesystem::path temporary = path;
  temporary += ".tmp";
  Status status = write_tensors(temporary, importance, batch);
  std::error_code error;
  if (status) std::filesystem::rename(temporary, path, error);
  if (error)
    status = fail(ErrorCode::out_of_resources, "{}: cannot write: {}", path.string(), error.message());
  if (!status) std::filesystem::remove(temporary, error);
  return status;
}

Result<Importance> read_importance(const std::filesystem::path& path) {
  OPTIQ_TRY(const auto file, io::SafetensorsFile::open(path));
  Importance importance;
  for (const auto& [module, tensor] : file.tensors()) {
    if (module == kTokens) continue;
    if (tensor.dtype != DType::f32 || tensor.shape.size() != 1) {
      return fail(ErrorCode::bad_input, "{}: {}: expected a vector of F32, got {} with {} dimensions",
                  path.string(), module, dtype_name(tensor.dtype), tensor.shape.size());
    }
    std::vector<float>& values = importance[module];
    values.resize(static_cast<std::size_t>(tensor.elements()));
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    for (const float value : values) {
      if (!(value >= 0) || !std::isfinite(value)) {
        return fail(ErrorCode::bad_input, "{}: {}: expected finite values ≥ 0, got {}", path.string(), module,
                    value);
      }
    }
  }
  return importance;
}

Result<calibrate::TokenBatch> read_calibration_tokens(const std::filesystem::path& path) {
  OPTIQ_TRY(const auto file, io::SafetensorsFile::open(path));
  const auto found = file.tensors().find(kTokens);
  const bool there = found != file.tensors().end() && found->second.dtype == DType::i32;
  if (!there || found->second.shape.size() != 2 || found->second.shape[1] < 2) {
    return fail(ErrorCode::bad_input,
                "{}: {}: expected calibration tokens, I32 [sequences, tokens]; profile again", path.string(),
                kTokens);
  }
  const io::TensorView& tensor = found->second;
  calibrate::TokenBatch batch{tensor.shape[0], tensor.shape[1], {}};
  batch.ids.resize(static_cast<std::size_t>(tensor.elements()));
  std::memcpy(batch.ids.data(), tensor.bytes.data(), tensor.bytes.size());
  for (const std::int32_t token : batch.ids) {
    if (token < 0)
      return fail(ErrorCode::bad_input, "{}: {}: expected tokens ≥ 0, got {}", path.string(), kTokens, token);
  }
  return batch;
}

}  // namespace optiq::profile
