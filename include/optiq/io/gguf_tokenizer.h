// GGUF's tokenizer metadata to tokenizer.json and tokenizer_config.json.
//
// Sources: ggml's docs/gguf.md (keys, token types); the pre-tokenizers' patterns: the tokenizer.json of the
// models they are named after; merges of a SentencePiece vocabulary: `transformers`, generate_merges.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "optiq/base/json.h"
#include "optiq/base/result.h"
#include "optiq/io/gguf.h"

namespace optiq::io {

/// What GGUF calls tokenizer.ggml.*; a token's id is its index in `tokens`. Texts are valid UTF-8.
struct GgufTokenizerMetadata {
  std::string model;                ///< "gpt2": byte-level BPE; "llama": SentencePiece BPE, byte fallback
  std::string pre = "default";      ///< the pre-tokenizer's name; counts for "gpt2" only
  std::vector<std::string> tokens;  ///< byte-level letters for "gpt2", "▁" for a space for "llama"
  std::vector<double> scores;       ///< one a token for "llama": a higher one merges first
  std::vector<std::int64_t> token_types;  ///< one a token (GgufTokenType), or none: all normal
  std::vector<std::string> merges;        ///< "left right", first merge first, for "gpt2"
  std::optional<std::int64_t> bos, eos, unk, pad;
  std::optional<bool> add_bos, add_eos, add_space_prefix;  ///< where missing, what the model kind implies
  std::string chat_template;                               ///< empty for none
};

enum class GgufTokenType : std::int64_t {
  normal = 1,
  unknown = 2,
  control = 3,  ///< a special token: found in text before anything else, skipped when decoding for people
  user_defined = 4,  ///< found in text before anything else, but decoded like other text
  unused = 5,        ///< padding of the embedding: no text leads to it
  byte = 6,          ///< "<0x0A>"
};

/// Reads the keys above. bad_input, naming the file and the key, where one is missing or of another type.
Result<GgufTokenizerMetadata> read_gguf_tokenizer(const GgufMetadata& metadata);

struct GgufTokenizerFiles {
  Json tokenizer;  ///< content of tokenizer.json
  Json config;     ///< content of tokenizer_config.json
};

/// Files whose encodings equal those of the model that the GGUF was made from, for the models "llama" and
/// "gpt2", and of the latter the pre-tokenizers smollm, llama-bpe, qwen2, gpt-2, tekken and default.
/// bad_input, naming `where`, for others, and where the parts do not fit together (lengths, ids out of range,
/// merges of unknown tokens, two tokens of one text). Not in GGUF, so not restored: the whitespace-stripping
/// flags of special tokens. Cost: linear in the vocabulary's text, times the length of a piece for "llama".
Result<GgufTokenizerFiles> rebuild_gguf_tokenizer(const GgufTokenizerMetadata& metadata,
                                                  std::string_view where);

}  // namespace optiq::io
