// A model folder as the Hugging Face Hub and mlx-lm lay it out: config.json, safetensors (one file or shards
// with an index), tokenizer files.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "optiq/base/json.h"
#include "optiq/io/safetensors.h"

namespace optiq::io {

class Checkpoint {
 public:
  /// Opens and checks a folder. bad_input: no config.json, no safetensors, a shard of the index missing, a
  /// tensor listed in the index that its shard lacks, the same tensor in two shards. Maps files; reads no
  /// weights.
  static Result<Checkpoint> open(const std::filesystem::path& folder, Access access = Access::kept);

  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }
  [[nodiscard]] const Json& config() const { return config_; }
  [[nodiscard]] const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  /// nullptr where there is none of that name.
  [[nodiscard]] const TensorView* find(const std::string& name) const;
  /// bad_input naming the tensor and the folder where it is missing.
  [[nodiscard]] Result<TensorView> require(const std::string& name) const;
  [[nodiscard]] Access access() const { return access_; }
  /// Bytes of all safetensors files as they lie on disk (the figure every budget counts).
  [[nodiscard]] std::uint64_t file_bytes() const { return file_bytes_; }

 private:
  std::filesystem::path folder_;
  Json config_;
  std::map<std::string, TensorView> tensors_;
  std::uint64_t file_bytes_ = 0;
  Access access_ = Access::kept;
};

/// config.json, tokenizer files and weights of a checkpoint, sorted; the first three are listed even where they
/// are missing.
std::vector<std::filesystem::path> checkpoint_files(const std::filesystem::path& folder);

/// What a model's results depend on: weights, configuration and tokenizer by name, size and time of last
/// change, a line each. A profile's own output that lies beside them is left out.
std::string checkpoint_identity(const std::filesystem::path& folder);

/// How tensors are laid over files: `model.safetensors`, or `model-%05d-of-%05d.safetensors` of ≤ shard_limit
/// bytes each, header included (a tensor larger than that has a file of its own), in the order given. A shape
/// that overflows counts as empty here; CheckpointWriter::create refuses it.
struct ShardLayout {
  std::vector<std::string> file_names;
  std::vector<std::vector<TensorSpec>> tensors;  ///< parallel to file_names
  std::uint64_t total_bytes = 0;                 ///< all files with their headers: exact.
};
inline constexpr std::uint64_t kShardLimitBytes = 5ull << 30;
ShardLayout layout_shards(const std::vector<TensorSpec>& tensors,
                          std::uint64_t shard_limit = kShardLimitBytes);

/// Where a layout's tensors lie, in the order they are written.
struct TensorPlace {
  std::string name;
  std::size_t file = 0;      ///< into ShardLayout::file_names
  std::uint64_t offset = 0;  ///< of its first byte in the file
  std::uint64_t bytes = 0;
};
std::vector<TensorPlace> tensor_places(const ShardLayout& layout);

/// Streams tensors into the files of a layout inside `folder` (a staging folder), then writes
/// model.safetensors.index.json {"metadata":{"total_size","total_parameters"},"weight_map"}; total_size is
/// the bytes of the tensors, without headers. A failure (out_of_resources) leaves partial files to the
/// staging folder.
class CheckpointWriter {
 public:
  static Result<CheckpointWriter> create(const std::filesystem::path& folder, ShardLayout layout);
  /// Goes on behind the first `done` tensors of the layout, which an earlier writer left in `folder`.
  static Result<CheckpointWriter> resume(const std::filesystem::path& folder, ShardLayout layout,
                                         std::size_t done);
  /// Tensors must come whole and in the layout's order: internal where name or size are not the next ones.
  Status write(const std::string& name, std::span<const std::byte> bytes);
  /// Flushes what was written to the device.
  Status sync() { return writer_->sync(); }
  Status finish(std::uint64_t total_parameters);

 private:
  CheckpointWriter(std::filesystem::path folder, ShardLayout layout)
      : folder_(std::move(folder)), layout_(std::move(layout)) {}
  Status open_file();
  std::filesystem::path folder_;
  ShardLayout layout_;
  std::optional<SafetensorsWriter> writer_;
  std::size_t file_ = 0;
  std::size_t tensor_ = 0;
};

/// Copies the tokenizer files, chat template and generation_config that stand beside a checkpoint's weights,
/// as far as there are any. bad_input where one cannot be read, out_of_resources where it cannot be written.
Status copy_sidecar_files(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace optiq::io
