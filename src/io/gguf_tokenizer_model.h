// The two kinds of tokenizer that GGUF stores, as the "model", "normalizer", "pre_tokenizer" and "decoder" of
// a tokenizer.json.
#pragma once

#include <string_view>
#include <unordered_map>

#include "optiq/io/gguf_tokenizer.h"

namespace optiq::io {

/// The ids of all tokens that text can lead to (all but the unused ones).
using GgufVocabulary = std::unordered_map<std::string_view, std::int64_t>;

struct GgufTokenizerModel {
  Json normalizer;
  Json pre_tokenizer;
  Json decoder;
  Json model;  ///< without "vocab"
  bool adds_bos_by_default = false;
};

/// Byte-level BPE. bad_input for an unknown pre-tokenizer and for merges that name no tokens.
Result<GgufTokenizerModel> byte_level_model(const GgufTokenizerMetadata& metadata,
                                            const GgufVocabulary& vocabulary, std::string_view where);

/// SentencePiece BPE with byte fallback. GGUF stores scores in place of merges, so the merges are every way
/// to split a piece into two others, best score first. bad_input where a normal piece is absurdly long.
Result<GgufTokenizerModel> sentence_piece_model(const GgufTokenizerMetadata& metadata,
                                                const GgufVocabulary& vocabulary, std::string_view where);

/// The type of token `id`; normal where the file has no types.
GgufTokenType gguf_token_type(const GgufTokenizerMetadata& metadata, std::size_t id);

}  // namespace optiq::io
