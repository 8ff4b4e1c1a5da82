// What a GGUF file says of its model; private to the import.
#pragma once

#include <string>

#include "optiq/io/gguf_import.h"

namespace optiq::io {

/// Facts that hold for every file of an architecture.
struct GgufArchitecture {
  std::string_view name;  ///< general.architecture, and the prefix of its keys; also model_type
  std::string_view transformers_class;
  bool interleaved_rope = false;  ///< rows of q and k are stored interleaved
  bool qkv_bias = false;          ///< q, k, v always have biases, o never
  bool qk_norm = false;
  bool fused = false;  ///< attn_qkv, and ffn_up holds gate and up
};

struct GgufModel {
  const GgufArchitecture* architecture = nullptr;
  std::int64_t vocabulary = 0;
  std::int64_t hidden = 0;
  std::int64_t intermediate = 0;
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t rotary_dim = 0;
  std::int64_t context = 0;
  std::int64_t sliding_window = 0;  ///< 0 = none
  double norm_epsilon = 0;
  double rope_theta = 0;
  bool tied_embeddings = false;
  bool attention_bias = false;  ///< of q, k, v, and of o unless the architecture says otherwise
  bool mlp_bias = false;
};

/// "llama.block_count" for block_count.
std::string architecture_key(const GgufModel& model, std::string_view key);

Result<GgufModel> read_gguf_model(const GgufFile& file);

/// The rope_scaling object of config.json; null where there is none.
Result<Json> read_gguf_rope_scaling(const GgufFile& file, const GgufModel& model);

/// config.json.
Result<Json> make_gguf_config(const GgufFile& file, const GgufModel& model, DType dtype);

/// generation_config.json: the special tokens of config.json; where the file names an end of turn that is not
/// the end of text, eos_token_id lists both.
Result<Json> make_gguf_generation_config(const GgufFile& file, const GgufModel& model);

/// Every tensor of the checkpoint with its source. bad_input where one is missing or has another shape, and
/// where the file holds one that the model has no place for.
Result<std::vector<GgufImportedTensor>> map_gguf_tensors(const GgufFile& file, const GgufModel& model,
                                                         DType dtype);

}  // namespace optiq::io
