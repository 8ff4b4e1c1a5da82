// Files of documents as one stream of tokens, each document begun by the tokenizer's own special tokens and
// ended by EOS.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "optiq/io/tokenizer.h"

namespace optiq::calibrate {

using Tokens = std::vector<std::int32_t>;

/// bad_input naming the file and line.
Result<Tokens> tokenize_jsonl(const std::filesystem::path& file, const io::Tokenizer& tokenizer);

/// Rows without text are passed over. Stops after the document that reaches `most_tokens`: such files are
/// often far larger than what is needed. bad_input naming the file and row.
Result<Tokens> tokenize_parquet(const std::filesystem::path& file, const io::Tokenizer& tokenizer,
                                std::size_t most_tokens);

}  // namespace optiq::calibrate
