#include "optiq/io/tokenizer.h"

namespace optiq::io {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";
constexpr std::size_t kLongWindow = 16;
constexpr std::size_t kShortWindow = 4;

/// Without a replacement character at the end, which may be a character that the next token completes. One is
/// enough: an unfinished character decodes to exactly one.
std::string_view settled_part(std::string_view text) {
  if (text.ends_with(kReplacement)) text.remove_suffix(kReplacement.size());
  return text;
}

}  // namespace

Result<std::string> StreamDecoder::push(std::int32_t token) {
  OPTIQ_TRY(const TokenKind kind, tokenizer_.token_kind(token));
  if (kind == TokenKind::silent) return std::string();
  window_.push_back(token);
  if (kind == TokenKind::byte) return std::string();
  OPTIQ_TRY(const std::string text, tokenizer_.decode(window_, true));
  const std::string_view settled = settled_part(text);
  if (settled.size() < shown_) return std::string();
  std::string piece(settled.substr(shown_));
  shown_ = settled.size();
  if (settled.size() == text.size()) OPTIQ_CHECK(shorten(text));
  return piece;
}

/// Forgets old tokens of a window that is wholly shown. The tokens kept must decode to the end of `text`, and
/// to something: decoders treat the beginning of a text differently (they drop its space), so a window must
/// hold text before the token that comes next.
Status StreamDecoder::shorten(std::string_view text) {
  if (window_.size() < kLongWindow) return {};
  auto begin = window_.end() - kShortWindow;
  for (;; ++begin) {
    OPTIQ_TRY(const TokenKind kind, tokenizer_.token_kind(*begin));
    if (kind == TokenKind::text) break;  // the newest token is one, or this would not have been called
  }
  const std::vector<std::int32_t> kept(begin, window_.end());
  OPTIQ_TRY(const std::string tail, tokenizer_.decode(kept, true));
  if (tail.empty() || !text.ends_with(tail)) return {};
  window_ = kept;
  shown_ = tail.size();
  return {};
}

Result<std::string> StreamDecoder::finish() {
  OPTIQ_TRY(const std::string text, tokenizer_.decode(window_, true));
  std::string piece = text.substr(std::min(shown_, text.size()));
  window_.clear();
  shown_ = 0;
  return piece;
}

}  // namespace optiq::io
