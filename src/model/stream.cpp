#include "optiq/model/stream.h"

#include <algorithm>

namespace optiq::model {
namespace {

bool is_of_stage(const std::string& tensor, std::int64_t layer) {
  constexpr std::string_view kBlocks = "model.layers.";
  if (layer == kOutsideBlocks) return !tensor.starts_with(kBlocks);
  return tensor.starts_with(fmt::format("{}{}.", kBlocks, layer));
}

std::vector<FilePart> parts_of(const Model& model, std::int64_t layer) {
  std::vector<FilePart> parts;
  for (const auto& [name, tensor] : model.checkpoint().tensors()) {
    if (is_of_stage(name, layer)) parts.push_back({tensor.file, tensor.bytes});
  }
  return parts;
}

}  // namespace

bool is_streamed(const Model& model) {
  return model.checkpoint().access() == Access::streamed;
}

StageWeights::StageWeights(const Model& model, std::int64_t layer, std::optional<std::int64_t> next) {
  if (!is_streamed(model)) return;
  parts_ = parts_of(model, layer);
  if (next) next_.begin(parts_of(model, *next));
}

StageWeights::~StageWeights() {
  if (parts_.empty()) return;
  for (const FilePart& part : parts_) part.file.release(part.bytes);
  return_freed_memory();
}

std::uint64_t stage_bytes(const Model& model, std::int64_t layer) {
  std::uint64_t bytes = 0;
  for (const FilePart& part : parts_of(model, layer)) bytes += part.bytes.size();
  return bytes;
}

std::uint64_t largest_block_bytes(const Model& model) {
  std::uint64_t largest = 0;
  for (std::int64_t layer = 0; layer < model.config().layers; ++layer)
    largest = std::max(largest, stage_bytes(model, layer));
  return largest;
}

std::uint64_t pass_bytes(const Model& model, std::int64_t tokens, std::int64_t sequences) {
  const ModelConfig& config = model.config();
  const auto width =
      static_cast<std::uint64_t>(8 * config.hidden + 4 * config.intermediate + config.heads * tokens);
  std::uint64_t largest = 0;
  for (const ModuleShape& module : model.modules()) {
    if (module.layer >= 0)
      largest = std::max(largest, static_cast<std::uint64_t>(module.out_features * module.in_features));
  }
  // Products may lay a weight out anew in f32.
  return kProcessBytes + largest_block_bytes(model) +
         static_cast<std::uint64_t>(sequences * tokens) * width * sizeof(float) + largest * sizeof(float);
}

Result<Activations> Activations::on_disk(std::size_t count, std::uint64_t bytes,
                                         const std::filesystem::path& folder) {
  Activations activations(count);
  OPTIQ_TRY(activations.file_, ScratchFile::create(folder, count * bytes));
  activations.slot_bytes_ = bytes;
  return activations;
}

Result<mx::array> Activations::get(std::size_t index) const {
  const Slot& slot = arrays_.at(index);
  if (slot.array) return *slot.array;
  std::size_t bytes = size_of(slot.dtype);
  for (const int extent : slot.shape) bytes *= static_cast<std::size_t>(extent);
  mx::array array(mx::allocator::malloc(bytes), slot.shape, slot.dtype);
  OPTIQ_CHECK(file_->read(index * slot_bytes_, {array.data<std::byte>(), bytes}));
  return array;
}

Status Activations::put(std::size_t index, mx::array value) {
  Slot& slot = arrays_.at(index);
  if (file_) value = mx::contiguous(value);
  OPTIQ_CHECK(evaluate({value}));
  if (!file_) {
    slot.array = std::move(value);
    return {};
  }
  if (value.nbytes() > slot_bytes_)
    return fail(ErrorCode::internal, "activations: {} bytes, {} were announced", value.nbytes(), slot_bytes_);
  slot.shape = value.shape();
  slot.dtype = value.dtype();
  return file_->write(index * slot_bytes_, {value.data<std::byte>(), value.nbytes()});
}

Result<Activations> make_activations(std::size_t count, std::uint64_t bytes, std::uint64_t least,
                                     const MemoryLimit& limit) {
  if (limit.scratch.empty() || limit.has_room(least, count * bytes)) return Activations(count);
  return Activations::on_disk(count, bytes, limit.scratch);
}

}  // namespace optiq::model
