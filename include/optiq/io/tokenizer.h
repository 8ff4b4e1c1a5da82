// tokenizer.json (by the Rust crate `tokenizers`) and chat templates (by `minijinja`), behind the C ABI of
// rust/.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "optiq/base/json.h"
#include "optiq/base/result.h"

namespace optiq::io {

/// What a token adds to decoded text when special tokens are skipped.
enum class TokenKind {
  silent,  ///< nothing: a special token, or an id outside the vocabulary
  text,
  byte,  ///< one byte (<0x0A>), decoded together with the byte tokens beside it
};

/// Thread-safe for const use; cheap to copy (shared).
class Tokenizer {
 public:
  /// Reads tokenizer.json, and tokenizer_config.json / generation_config.json / config.json /
  /// chat_template.jinja where they exist (special tokens, EOS ids, template). bad_input where tokenizer.json
  /// is missing or one of them is malformed; but a template that does not compile fails only where it is
  /// used.
  static Result<Tokenizer> open(const std::filesystem::path& folder);

  /// Exactly what `tokenizers` returns with truncation and padding off. add_special_tokens applies the
  /// post-processor (BOS and the like). bad_input where text is not valid UTF-8.
  [[nodiscard]] Result<std::vector<std::int32_t>> encode(std::string_view text,
                                                         bool add_special_tokens) const;
  /// Always valid UTF-8: bytes that form no character become U+FFFD. Ids outside the vocabulary add nothing;
  /// a negative id is bad_input.
  [[nodiscard]] Result<std::string> decode(std::span<const std::int32_t> tokens,
                                           bool skip_special_tokens) const;

  [[nodiscard]] std::size_t vocabulary_size() const;  ///< with added tokens
  /// The id of a token by its exact text.
  [[nodiscard]] std::optional<std::int32_t> token_id(std::string_view token) const;
  [[nodiscard]] Result<TokenKind> token_kind(std::int32_t token) const;
  /// What tokenizer_config.json says (null is none); where it says nothing, generation_config.json or
  /// config.json.
  [[nodiscard]] std::optional<std::int32_t> bos_token() const;
  /// Every id that ends a generation, without repeats: those of generation_config.json (it may name several),
  /// config.json and tokenizer_config.json.
  [[nodiscard]] const std::vector<std::int32_t>& eos_tokens() const;
  [[nodiscard]] bool has_chat_template() const;
  /// Renders the chat template over [{"role","content"}, …], as `transformers` does. `variables` is an object
  /// of further template variables, "tools" for one. bad_input with the template's line on failure.
  [[nodiscard]] Result<std::string> apply_chat_template(const Json& messages, bool add_generation_prompt,
                                                        const Json& variables = Json::object()) const;

  struct State;

 private:
  explicit Tokenizer(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  std::shared_ptr<const State> state_;
};

/// Turns a stream of tokens into text whose pieces are whole UTF-8 characters (byte-level BPE splits them).
/// All pieces together are decode(tokens, skip_special_tokens = true). Byte tokens (TokenKind::byte) are held
/// back until another token follows, since a later byte may still change what they decode to. Not
/// thread-safe.
class StreamDecoder {
 public:
  explicit StreamDecoder(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}
  /// Text that this token completed; empty while a character is unfinished. Cost: decoding a few tokens.
  Result<std::string> push(std::int32_t token);
  /// What is left at the end (replacement characters for an unfinished one). The decoder is then as new.
  Result<std::string> finish();

 private:
  Status shorten(std::string_view text);

  Tokenizer tokenizer_;
  std::vector<std::int32_t>
      window_;             ///< the latest tokens, enough of them to decode the next as in the whole
  std::size_t shown_ = 0;  ///< bytes of decode(window_) that were returned
};

}  // namespace optiq::io
