#include "documents.h"

#include <algorithm>

#include "optiq/base/file.h"
#include "optiq/io/parquet.h"

namespace optiq::calibrate {
namespace {

/// A conversation as the tokenizer's chat template writes it.
Result<std::string> conversation_text(const JsonReader& line, const io::Tokenizer& tokenizer) {
  OPTIQ_TRY(const Json* messages, line.array("messages"));
  auto text = tokenizer.apply_chat_template(*messages, false);
  if (!text) return with_context(text.error(), line.where());
  return text;
}

/// The text of one line of a JSONL file, or one row of a Parquet file.
Result<std::string> document_text(const Json& line, const io::Tokenizer& tokenizer,
                                  const std::string& where) {
  const JsonReader reader(line, where);
  if (reader.has("text")) return reader.string("text");
  if (reader.has("messages")) return conversation_text(reader, tokenizer);
  if (reader.has("prompt")) {
    OPTIQ_TRY(const std::string prompt, reader.string("prompt"));
    OPTIQ_TRY(const std::string completion, reader.string_or("completion", ""));
    return prompt + completion;
  }
  return fail(ErrorCode::bad_input, "{}: expected \"text\", \"messages\" or \"prompt\"", where);
}

/// One document's tokens: begun by the tokenizer's own special tokens, ended by EOS.
Result<Tokens> tokenize_document(const Json& json, const io::Tokenizer& tokenizer, const std::string& where) {
  OPTIQ_TRY(const std::string text, document_text(json, tokenizer, where));
  auto tokens = tokenizer.encode(text, true);
  if (!tokens) return with_context(tokens.error(), where);
  if (!tokenizer.eos_tokens().empty()) tokens->push_back(tokenizer.eos_tokens().front());
  return tokens;
}

}  // namespace

Result<Tokens> tokenize_jsonl(const std::filesystem::path& file, const io::Tokenizer& tokenizer) {
  OPTIQ_TRY(const std::string content, read_text_file(file));
  Tokens tokens;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < content.size();) {
    const std::size_t end = std::min(content.find('\n', begin), content.size());
    const std::string_view line = std::string_view(content).substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = fmt::format("{}:{}", file.string(), number);
    OPTIQ_TRY(const Json json, parse_json(line, where));
    OPTIQ_TRY(const Tokens document, tokenize_document(json, tokenizer, where));
    tokens.insert(tokens.end(), document.begin(), document.end());
  }
  return tokens;
}

Result<Tokens> tokenize_parquet(const std::filesystem::path& file, const io::Tokenizer& tokenizer,
                                std::size_t most_tokens) {
  OPTIQ_TRY(io::ParquetDocuments documents, io::ParquetDocuments::open(file));
  Tokens tokens;
  while (tokens.size() < most_tokens) {
    OPTIQ_TRY(const std::optional<Json> row, documents.next());
    if (!row) break;
    if (row->is_null()) continue;
    OPTIQ_TRY(const Tokens document, tokenize_document(*row, tokenizer, documents.where()));
    tokens.insert(tokens.end(), document.begin(), document.end());
  }
  return tokens;
}

}  // namespace optiq::calibrate
