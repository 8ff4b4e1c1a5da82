// A plan carried out: a full-precision checkpoint in, an MLX mixed-precision checkpoint out
// (docs/formats.md), and the proof that what lies in the folder is what was planned.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "optiq/base/memory.h"
#include "optiq/base/progress.h"
#include "optiq/base/result.h"
#include "optiq/io/checkpoint.h"
#include "optiq/plan/plan.h"
#include "optiq/profile/importance.h"

namespace optiq::encode {

struct EncodeOptions {
  std::uint64_t shard_limit_bytes = io::kShardLimitBytes;  ///< largest safetensors file
  double record_seconds = 1;  ///< a kill costs about as much work, for plans of `gptq` one block's more
  /// Of this process; the source should then be opened to be streamed.
  MemoryLimit memory = {};
};

/// Bytes on the disk of `out` that encode_checkpoint takes, beside an old `out` that is there until the end.
std::uint64_t disk_needed(const plan::Plan& plan, const EncodeOptions& options = {});

/// The least memory that encode_checkpoint can do with.
std::uint64_t memory_needed(const io::Checkpoint& source, const plan::Plan& plan);

/// What is known of the modules' inputs.
struct Calibration {
  profile::Importance importance;
  /// Where the plan has a module for `gptq`: what its second moments are measured on, block by block, with
  /// the blocks in front already encoded.
  calibrate::TokenBatch tokens;
  profile::TokenWeights weights = {};  ///< of these tokens; none: all count alike
};
/// The profile's file (profile::write_importance), or nothing known where `path` is empty. Tokens and weights
/// are read only where the plan needs them.
Result<Calibration> read_calibration(const std::filesystem::path& path, const plan::Plan& plan);

/// Writes the checkpoint that `plan` describes into the folder `out`: weights, config.json with
/// "quantization", optiq.json (plan and provenance), and the source's tokenizer files. Each module is encoded
/// by its own encoder; a module that `calibration` does not list counts all its inputs alike. Dense modules
/// and the fixed tensors are copied as they are.
///
/// `out` appears whole or not at all: it may be missing, empty, or an earlier output of this function (which
/// is replaced); killed at any moment, the old content or the new is there. What was written lies in a hidden
/// folder beside it, and the same call goes on from there after a kill or a full disk (docs/memory.md).
/// Memory: one module at a time beside the source's mapping; for `gptq` also what profile::walk_grams takes.
/// The bytes written depend on the arguments alone, not on threads, time or interruptions.
///
/// bad_input (naming the tensor) where the source is quantized already, or lacks a tensor of the plan, or has
/// it in another shape or dtype, or holds a weight that is not finite; where `out` is a file or a foreign
/// folder; where the plan has `gptq` and there are no tokens. out_of_resources where it cannot be written or
/// the disk is too small (found before the start), impossible_budget where the memory is.
Status encode_checkpoint(const io::Checkpoint& source, const plan::Plan& plan, const Calibration& calibration,
                         const std::filesystem::path& out, const EncodeOptions& options = {},
                         const Progress& progress = {});

/// Tensor → bytes that someone else keeps.
using TensorBytes = std::map<std::string, std::span<const std::byte>>;

/// Writes the encoded checkpoint `folder` anew with other bytes for some of its tensors (each as long as the
/// old one); all else is carried over, and the folder is swapped whole. bad_input for a folder
/// that encode_checkpoint did not write; internal for a tensor that it lacks.
Status replace_tensors(const std::filesystem::path& folder, const TensorBytes& tensors);

/// Whether encode_checkpoint could write `out`, asked before hours of work: bad_input where it is a file or a
/// foreign folder, out_of_resources where nothing can be created beside it.
Status check_output(const std::filesystem::path& out);

struct Verification {
  std::vector<std::string> modules;  ///< all that were checked, in the model's order
  std::uint64_t file_bytes = 0;      ///< of all safetensors files
};

/// Reads a folder that encode_checkpoint wrote and proves that it is what its optiq.json says: every tensor
/// of the plan with its dtype and shape, in the file where the plan's layout puts it, and no others; every
/// file's size; bits and group size of every module in config.json, and its two copies identical; finite
/// scales and biases. bad_input names the file and the module or tensor that differs, what was expected and
/// what is there.
Result<Verification> verify_checkpoint(const std::filesystem::path& out);

/// The KV cache's formats, one a block, that the plan in the folder's optiq.json names; empty where it names
/// none, or there is no such file. Errors: those of reading it.
Result<std::vector<kernels::cpu::CacheFormat>> planned_caches(const std::filesystem::path& folder);

}  // namespace optiq::encode
