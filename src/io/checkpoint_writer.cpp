#include <array>

#include "optiq/io/checkpoint.h"
#include "safetensors_header.h"

namespace optiq::io {
namespace {

namespace fs = std::filesystem;

/// What mlx-lm writes into every file; some loaders refuse a file without it.
const std::map<std::string, std::string>& file_metadata() {
  static const std::map<std::string, std::string> metadata{{"format", "mlx"}};
  return metadata;
}

std::string file_name(std::size_t index, std::size_t count) {
  return count == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, count);
}

Json index_json(const ShardLayout& layout, std::uint64_t total_parameters) {
  std::map<std::string, std::string> weight_map;
  std::uint64_t tensor_total = 0;
  for (std::size_t file = 0; file < layout.file_names.size(); ++file) {
    for (const TensorSpec& spec : layout.tensors[file]) {
      weight_map[spec.name] = layout.file_names[file];
      tensor_total += tensor_bytes(spec).value_or(0);
    }
  }
  return {{"metadata", {{"total_size", tensor_total}, {"total_parameters", total_parameters}}},
          {"weight_map", Json(weight_map)}};
}

/// What stands beside a checkpoint's weights and is carried over as it is.
constexpr std::array<std::string_view, 10> kSidecarFiles{"tokenizer.json",     "tokenizer_config.json",
                                                         "tokenizer.model",    "special_tokens_map.json",
                                                         "added_tokens.json",  "vocab.json",
                                                         "merges.txt",         "chat_template.jinja",
                                                         "chat_template.json", "generation_config.json"};

}  // namespace

ShardLayout layout_shards(const std::vector<TensorSpec>& tensors, std::uint64_t shard_limit) {
  ShardLayout layout;
  HeaderBuilder header(file_metadata());
  layout.tensors.emplace_back();
  for (const TensorSpec& spec : tensors) {
    if (!layout.tensors.back().empty() && header.file_bytes_with(spec) > shard_limit) {
      layout.total_bytes += header.file_bytes();
      header = HeaderBuilder(file_metadata());
      layout.tensors.emplace_back();
    }
    header.add(spec);
    layout.tensors.back().push_back(spec);
  }
  layout.total_bytes += header.file_bytes();
  for (std::size_t i = 0; i < layout.tensors.size(); ++i)
    layout.file_names.push_back(file_name(i, layout.tensors.size()));
  return layout;
}

std::vector<TensorPlace> tensor_places(const ShardLayout& layout) {
  std::vector<TensorPlace> places;
  for (std::size_t file = 0; file < layout.tensors.size(); ++file) {
    std::uint64_t offset = safetensors_header_bytes(layout.tensors[file], file_metadata());
    for (const TensorSpec& spec : layout.tensors[file]) {
      const std::uint64_t bytes = tensor_bytes(spec).value_or(0);
      places.push_back({spec.name, file, offset, bytes});
      offset += bytes;
    }
  }
  return places;
}

Result<CheckpointWriter> CheckpointWriter::create(const fs::path& folder, ShardLayout layout) {
  return resume(folder, std::move(layout), 0);
}

Result<CheckpointWriter> CheckpointWriter::resume(const fs::path& folder, ShardLayout layout,
                                                  std::size_t done) {
  if (layout.tensors.empty() || layout.file_names.size() != layout.tensors.size())
    return fail(ErrorCode::internal, "checkpoint writer: {} files named for {} sets of tensors",
                layout.file_names.size(), layout.tensors.size());
  CheckpointWriter writer(folder, std::move(layout));
  const auto& tensors = writer.layout_.tensors;
  while (writer.file_ + 1 < tensors.size() && done >= tensors[writer.file_].size())
    done -= tensors[writer.file_++].size();
  if (done > tensors[writer.file_].size())
    return fail(ErrorCode::internal, "checkpoint writer: more tensors are done than the layout has");
  writer.tensor_ = done;
  OPTIQ_CHECK(writer.open_file());
  return writer;
}

Status CheckpointWriter::open_file() {
  const fs::path path = folder_ / layout_.file_names[file_];
  if (tensor_ > 0) {
    OPTIQ_TRY(writer_, SafetensorsWriter::resume(path, layout_.tensors[file_], file_metadata(), tensor_));
  } else {
    OPTIQ_TRY(writer_, SafetensorsWriter::create(path, layout_.tensors[file_], file_metadata()));
  }
  return {};
}

Status CheckpointWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  if (tensor_ == layout_.tensors[file_].size() && file_ + 1 < layout_.tensors.size()) {
    OPTIQ_CHECK(writer_->finish());
    ++file_;
    tensor_ = 0;
    OPTIQ_CHECK(open_file());
  }
  if (tensor_ == layout_.tensors[file_].size())
    return fail(ErrorCode::internal, "checkpoint writer: tensor {} after the last one announced", name);
  const TensorSpec& expected = layout_.tensors[file_][tensor_];
  OPTIQ_TRY(const std::uint64_t expected_bytes, tensor_bytes(expected));
  if (name != expected.name || bytes.size() != expected_bytes) {
    return fail(ErrorCode::internal, "checkpoint writer: expected tensor {} of {} bytes, got {} of {}",
                expected.name, expected_bytes, name, bytes.size());
  }
  ++tensor_;
  return writer_->append(bytes);
}

Status CheckpointWriter::finish(std::uint64_t total_parameters) {
  if (file_ + 1 != layout_.tensors.size() || tensor_ != layout_.tensors[file_].size())
    return fail(ErrorCode::internal, "checkpoint writer: finished before the last tensor announced");
  OPTIQ_CHECK(writer_->finish());
  return write_file_atomically(folder_ / "model.safetensors.index.json",
                               index_json(layout_, total_parameters).dump(4) + "\n");
}

Status copy_sidecar_files(const fs::path& from, const fs::path& to) {
  std::error_code ignored;
  for (const std::string_view name : kSidecarFiles) {
    if (!fs::exists(from / name, ignored)) continue;
    OPTIQ_TRY(const MappedFile file, MappedFile::open(from / name));
    const auto* text = reinterpret_cast<const char*>(file.bytes().data());
    OPTIQ_CHECK(write_file_atomically(to / name, {text, file.bytes().size()}));
  }
  return {};
}

}  // namespace optiq::io
