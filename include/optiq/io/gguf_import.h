// GGUF to a Hugging Face folder: dense safetensors, config.json and tokenizer files.
#pragma once

#include <filesystem>
#include <vector>

#include "optiq/base/json.h"
#include "optiq/base/progress.h"
#include "optiq/io/gguf.h"
#include "optiq/io/safetensors.h"

namespace optiq::io {

/// A tensor of the GGUF file and what it becomes.
struct GgufImportedTensor {
  const GgufTensor* source = nullptr;
  TensorSpec target;  ///< Hugging Face name, dtype, shape
  /// Heads whose rows llama.cpp stores interleaved for its rotary embedding (q and k of "llama" files), to be
  /// put back; 0 where rows keep their order. With n rows a head, row (j, i) of the checkpoint (j < 2, i < n
  /// / 2, at j · n / 2 + i) is row 2i + j of the file.
  std::int64_t interleaved_heads = 0;
};

/// What an import will write, worked out from the metadata and tensor infos alone.
struct GgufImportPlan {
  Json config;                              ///< config.json
  Json generation_config;                   ///< generation_config.json
  std::vector<GgufImportedTensor> tensors;  ///< in the checkpoint's order; they point into the GgufFile
};

/// bad_input where the file is no model of a supported architecture (llama, qwen2, qwen3, phi3; "mistral"
/// models are llama files with a sliding window), one of several pieces, a mixture of experts, where a
/// hyperparameter is missing or contradicts a tensor's shape, a tensor is missing, unknown or of an
/// unsupported type, or where the rotary scaling cannot be expressed in config.json. Reads no weights except
/// rotary factors.
Result<GgufImportPlan> plan_gguf_import(const GgufFile& file, DType dtype);

struct GgufImportOptions {
  DType dtype = DType::bf16;  ///< of every tensor written: f32 (exact), f16 or bf16 (rounded to nearest even)
  Progress progress;
};

/// Writes `out` (a folder that appears whole or not at all; an existing one is replaced only if it holds
/// config.json): config.json, model.safetensors or shards with their index, tokenizer.json,
/// tokenizer_config.json, generation_config.json. bad_input as above, and for a weight that is NaN, infinite
/// or too large for `dtype`, naming the tensor; usage for a dtype that holds no weights. Memory: one tensor
/// at a time.
Status import_gguf(const std::filesystem::path& gguf, const std::filesystem::path& out,
                   const GgufImportOptions& options);

}  // namespace optiq::io
