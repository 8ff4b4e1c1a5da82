// What every prompt cache has: whose sequence it is, its tokens and logits, and the tensors of each block.
//
// A safetensors file. Metadata: "format" "optiq-prompt-cache", "version" "1", "checkpoint" (a fingerprint, 16
// hex digits), "compute" (what computed it: only that goes on with it), and of every block "blocks.N.cache",
// how its keys and values are stored. Tensors, beside those that the compute has of a block, "blocks.N.":
//
//   tokens           I32 [tokens]
//   logits           F32 [vocabulary]: behind the last token; [0] where they are not known
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "optiq/base/result.h"
#include "optiq/io/safetensors.h"
#include "optiq/kernels/kv_cache.h"
#include "optiq/model/model.h"

namespace optiq::engine {

/// Whose sequence a file must hold for it to be gone on with.
struct PromptCacheOrigin {
  const model::Model& model;
  std::string compute;              ///< "int8", "f32", "graphs"
  std::vector<std::string> caches;  ///< of each block: cache_format_name()
};

/// "f32", "f16", "bf16", "int8"; a packed one by its bits.
std::string_view cache_storage_name(kernels::cpu::CacheStorage storage);
/// "KEYS/VALUES", or "KEYS rotated/VALUES".
std::string cache_format_name(kernels::cpu::CacheFormat format, bool is_rotated = false);
/// "blocks.N.PART".
std::string block_tensor_name(std::size_t block, std::string_view part);

/// What is written.
struct PromptCacheContent {
  std::size_t held = 0;  ///< how many tokens the compute holds
  std::span<const std::int32_t> tokens;
  std::span<const float> logits;
  std::vector<io::TensorSpec> blocks;  ///< in the order in which they are written
  std::function<Status(io::SafetensorsWriter& writer)> write_blocks;  ///< all of their bytes
};

/// Replaces `path`, whole or not at all: out_of_resources where it cannot be written. usage for no tokens, or
/// another number than are held.
Status write_prompt_cache_file(const std::filesystem::path& path, const PromptCacheOrigin& origin,
                               PromptCacheContent content);

/// A file of a known origin. Errors are bad_input, naming file, tensor, what was expected and what came.
class PromptCacheFile {
 public:
  /// Also refuses another origin and another number of tensors than `block_tensors`, tokens and logits.
  static Result<PromptCacheFile> open(const std::filesystem::path& path, const PromptCacheOrigin& origin,
                                      std::size_t block_tensors);

  /// One and more, within the vocabulary and the model's positions.
  [[nodiscard]] Result<std::vector<std::int32_t>> tokens() const;
  /// One for each of the vocabulary, or none.
  [[nodiscard]] Result<std::vector<float>> logits() const;
  /// A tensor of this type and shape; an extent of −1 stands for any.
  [[nodiscard]] Result<io::TensorView> tensor(const io::TensorSpec& expected) const;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  PromptCacheFile(std::string path, io::SafetensorsFile file, const PromptCacheOrigin& origin)
      : path_(std::move(path)), file_(std::move(file)), origin_(origin) {}
  [[nodiscard]] Status check_origin() const;
  [[nodiscard]] Status check_entry(const std::string& key, const std::string& expected) const;

  std::string path_;
  io::SafetensorsFile file_;
  PromptCacheOrigin origin_;
};

/// A file's tokens, once `take` has put its blocks and logits in place of what it goes on with; nothing is
/// allocated before the file was seen to hold it. out_of_resources where there is no memory.
Result<std::vector<std::int32_t>> read_prompt_cache_file(
    const std::filesystem::path& path, const PromptCacheOrigin& origin, std::size_t block_tensors,
    const std::function<Status(const PromptCacheFile& file, std::size_t tokens, std::vector<float> logits)>&
        take);

}  // namespace optiq::engine
