#include "optiq/profile/importance.h"

#include <cmath>
#include <cstring>

#include "channel_energies.h"
#include "optiq/base/half.h"
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
constexpr std::string_view kWeights = ".token_weights";

Status write_tensors(const std::filesystem::path& path, const Importance& importance,
                     const calibrate::TokenBatch& batch, const TokenWeights& weights) {
  std::vector<io::TensorSpec> specs{{kTokens, DType::i32, {batch.sequences, batch.tokens}}};
  for (const auto& [module, values] : importance)
    specs.push_back({module, DType::f32, {static_cast<std::int64_t>(values.size())}});
  for (const auto& [module, values] : weights)
    specs.push_back({module + std::string(kWeights), DType::bf16, {batch.sequences, batch.tokens}});
  OPTIQ_TRY(auto writer, io::SafetensorsWriter::create(path, specs, {{"format", "optiq-importance"}}));
  OPTIQ_CHECK(writer.append(std::as_bytes(std::span(batch.ids))));
  for (const auto& [module, values] : importance)
    OPTIQ_CHECK(writer.append(std::as_bytes(std::span(values))));
  for (const auto& [module, values] : weights) {
    std::vector<std::uint16_t> halves;
    for (const float value : values) halves.push_back(f32_to_bf16(value));
    OPTIQ_CHECK(writer.append(std::as_bytes(std::span(halves))));
  }
  return writer.finish();
}

}  // namespace

Status write_importance(const std::filesystem::path& path, const Importance& importance,
                        const calibrate::TokenBatch& batch, const TokenWeights& weights) {
  std::filesystem::path temporary = path;
  temporary += ".tmp";
  Status status = write_tensors(temporary, importance, batch, weights);
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
    if (module == kTokens || module.ends_with(kWeights)) continue;
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

Result<TokenWeights> read_token_weights(const std::filesystem::path& path,
                                        const calibrate::TokenBatch& batch) {
  OPTIQ_TRY(const auto file, io::SafetensorsFile::open(path));
  TokenWeights weights;
  for (const auto& [name, tensor] : file.tensors()) {
    if (!name.ends_with(kWeights)) continue;
    if (tensor.dtype != DType::bf16 || tensor.shape != std::vector{batch.sequences, batch.tokens}) {
      return fail(ErrorCode::bad_input, "{}: {}: expected BF16 [{}, {}] as the tokens are, got {} [{}]",
                  path.string(), name, batch.sequences, batch.tokens, dtype_name(tensor.dtype),
                  fmt::join(tensor.shape, ", "));
    }
    std::vector<float>& values = weights[name.substr(0, name.size() - kWeights.size())];
    for (std::size_t i = 0; i < tensor.bytes.size(); i += sizeof(std::uint16_t)) {
      std::uint16_t half = 0;
      std::memcpy(&half, tensor.bytes.data() + i, sizeof half);
      values.push_back(bf16_to_f32(half));
      if (!(values.back() >= 0) || !std::isfinite(values.back())) {
        return fail(ErrorCode::bad_input, "{}: {}: expected finite values ≥ 0, got {}", path.string(), name,
                    values.back());
      }
    }
  }
  return weights;
}

}  // namespace optiq::profile
