#include "optiq/calibrate/calibrate.h"

#include <algorithm>
#include <numeric>

#include "optiq/base/file.h"
#include "optiq/base/random.h"

namespace optiq::calibrate {
namespace {

constexpr std::int64_t kMostSequences = 1 << 20;
/// Ids of one batch: 1 GiB, and far more than any estimate needs.
constexpr std::int64_t kMostTokens = 1 << 28;

Status check_source(const Source& source, const model::ModelConfig& config) {
  if (source.sequences < 1 || source.sequences > kMostSequences) {
    return fail(ErrorCode::usage, "calibration: expected 1 to {} sequences, got {}", kMostSequences,
                source.sequences);
  }
  const std::int64_t longest = config.max_positions > 0 ? config.max_positions : 1 << 20;
  if (source.tokens < 2 || source.tokens > longest) {
    return fail(ErrorCode::usage, "calibration: expected 2 to {} tokens a sequence, got {}", longest,
                source.tokens);
  }
  if (source.tokens > kMostTokens / source.sequences) {
    return fail(ErrorCode::usage, "calibration: expected at most {} tokens in all, got {} sequences of {}",
                kMostTokens, source.sequences, source.tokens);
  }
  return {};
}

/// A conversation as the tokenizer's chat template writes it.
Result<std::string> conversation_text(const JsonReader& line, const io::Tokenizer& tokenizer) {
  OPTIQ_TRY(const Json* messages, line.array("messages"));
  auto text = tokenizer.apply_chat_template(*messages, false);
  if (!text) return with_context(text.error(), line.where());
  return text;
}

/// The text of one line of a JSONL file.
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

/// One line's tokens: begun by the tokenizer's own special tokens, ended by EOS.
Result<std::vector<std::int32_t>> tokenize_line(std::string_view line, const io::Tokenizer& tokenizer,
                                                const std::string& where) {
  OPTIQ_TRY(const Json json, parse_json(line, where));
  OPTIQ_TRY(const std::string text, document_text(json, tokenizer, where));
  auto tokens = tokenizer.encode(text, true);
  if (!tokens) return with_context(tokens.error(), where);
  if (!tokenizer.eos_tokens().empty()) tokens->push_back(tokenizer.eos_tokens().front());
  return tokens;
}

/// All documents one after another.
Result<std::vector<std::int32_t>> tokenize_jsonl(const std::filesystem::path& file,
                                                 const io::Tokenizer& tokenizer) {
  OPTIQ_TRY(const std::string content, read_text_file(file));
  std::vector<std::int32_t> tokens;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < content.size();) {
    const std::size_t end = std::min(content.find('\n', begin), content.size());
    const std::string_view line = std::string_view(content).substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = fmt::format("{}:{}", file.string(), number);
    OPTIQ_TRY(const auto document, tokenize_line(line, tokenizer, where));
    tokens.insert(tokens.end(), document.begin(), document.end());
  }
  return tokens;
}

/// Cuts a token stream into windows and keeps a seeded choice of them, in the stream's order.
Result<TokenBatch> choose_windows(const std::vector<std::int32_t>& tokens, const Source& source) {
  TokenBatch batch{0, std::min<std::int64_t>(source.tokens, static_cast<std::int64_t>(tokens.size())), {}};
  if (batch.tokens < 2) {
    return fail(ErrorCode::bad_input, "{}: expected calibration text of at least 2 tokens, got {}",
                source.name, tokens.size());
  }
  std::vector<std::int64_t> windows(tokens.size() / static_cast<std::size_t>(batch.tokens));
  std::iota(windows.begin(), windows.end(), 0);
  Random random(source.seed);
  for (std::size_t i = windows.size(); i > 1; --i) std::swap(windows[i - 1], windows[random.below(i)]);
  windows.resize(std::min(windows.size(), static_cast<std::size_t>(source.sequences)));
  std::sort(windows.begin(), windows.end());
  for (const std::int64_t window : windows) {
    const auto first = tokens.begin() + window * batch.tokens;
    batch.ids.insert(batch.ids.end(), first, first + batch.tokens);
  }
  batch.sequences = static_cast<std::int64_t>(windows.size());
  return batch;
}

Status check_vocabulary(const std::vector<std::int32_t>& ids, std::int64_t vocabulary,
                        const std::string& where) {
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= vocabulary) {
      return fail(ErrorCode::bad_input, "{}: the tokenizer gave token {}, but the model's vocabulary has {}",
                  where, id, vocabulary);
    }
  }
  return {};
}

}  // namespace

model::mx::array TokenBatch::array(std::int64_t index) const {
  return model::mx::array(row(index).data(), {1, static_cast<int>(tokens)}, model::mx::int32);
}

Result<std::vector<std::int32_t>> tokenize_file(const std::filesystem::path& file,
                                                const io::Tokenizer& tokenizer) {
  OPTIQ_TRY(const std::string text, read_text_file(file));
  if (text.empty()) return fail(ErrorCode::bad_input, "{}: the file is empty", file.string());
  auto tokens = tokenizer.encode(text, false);
  if (!tokens) return with_context(tokens.error(), file.string());
  return tokens;
}

Result<TokenBatch> load(const Source& source, const model::Model& model, const io::Tokenizer& tokenizer,
                        const Progress& progress) {
  OPTIQ_CHECK(check_source(source, model.config()));
  if (source.name == "self") return sample_from_model(source, model, tokenizer, progress);
  const std::filesystem::path file(source.name);
  auto tokens =
      file.extension() == ".jsonl" ? tokenize_jsonl(file, tokenizer) : tokenize_file(file, tokenizer);
  if (!tokens) return tl::unexpected(tokens.error());
  OPTIQ_CHECK(check_vocabulary(*tokens, model.config().vocabulary, source.name));
  return choose_windows(*tokens, source);
}

}  // namespace optiq::calibrate
