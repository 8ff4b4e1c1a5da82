#include "gguf_tokenizer_model.h"

#include <algorithm>
#include <array>
#include <tuple>

#include "optiq/base/text.h"

namespace optiq::io {
namespace {

constexpr std::string_view kSpacePiece = "\xe2\x96\x81";  // U+2581
constexpr std::size_t kLongestPieceBytes = 1024;

Json split(std::string_view pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}

/// With its regex it splits as GPT-2 does; without, it only spells bytes as letters.
Json byte_level(bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json sequence(std::string_view list_name, Json parts) {
  return {{"type", "Sequence"}, {list_name, std::move(parts)}};
}

/// What a pre-tokenizer's name stands for.
struct Style {
  std::string_view name;
  Json (*pre_tokenizer)();
  bool composes;       ///< normalizes to NFC first
  bool ignore_merges;  ///< a word that is a token is that token, whatever the merges say
  bool adds_bos;
};

/// Also SmolLM2's, as its tokenizer.json has it since transformers 5. (llama.cpp first isolates every
/// character of class N. No digits merge in that vocabulary, so this shows only after a space and in "½" and
/// the like.)
Json gpt2() {
  return byte_level(true);
}

Json patterned(std::string_view pattern) {
  return sequence("pretokenizers", {split(pattern), byte_level(false)});
}

Json llama3() {
  return patterned(
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|)"
      R"(\s+(?!\S)|\s+)");
}

Json qwen2() {
  return patterned(
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|)"
      R"(\s+(?!\S)|\s+)");
}

Json tekken() {
  return patterned(R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
                   R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|)"
                   R"( ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)");
}

/// What llama.cpp assumes of a byte-level file that names no pre-tokenizer; it is no known model's own.
Json unnamed() {
  return sequence("pretokenizers",
                  {split(R"([\p{P}\$\+<=>\^~\|]+)"),
                   split(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))"),
                   split(R"(\p{N}+)"), split("[0-9][0-9][0-9]"), byte_level(false)});
}

constexpr std::array kStyles{
    Style{"smollm", gpt2, false, false, false},    Style{"gpt-2", gpt2, false, false, false},
    Style{"llama-bpe", llama3, false, true, true}, Style{"llama3", llama3, false, true, true},
    Style{"qwen2", qwen2, true, false, false},     Style{"tekken", tekken, false, true, true},
    Style{"default", unnamed, false, false, false}};

Result<Style> find_style(std::string_view name, std::string_view where) {
  const auto found =
      std::find_if(kStyles.begin(), kStyles.end(), [&](const Style& style) { return style.name == name; });
  if (found != kStyles.end()) return *found;
  std::string known;
  for (const Style& style : kStyles) known += fmt::format("{}{}", known.empty() ? "" : ", ", style.name);
  return fail(ErrorCode::bad_input, "{}: tokenizer.ggml.pre: \"{}\" is unknown; known: {}", where,
              printable(name), known);
}

Json bpe_model(Json unk_token, bool falls_back_to_bytes, bool ignore_merges, Json merges) {
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", std::move(unk_token)},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", falls_back_to_bytes},
          {"byte_fallback", falls_back_to_bytes},
          {"ignore_merges", ignore_merges},
          {"merges", std::move(merges)}};
}

/// "left right" as a pair. Neither holds a space: a byte-level vocabulary spells it with another letter.
Result<Json> parse_merge(const std::string& merge, const GgufVocabulary& vocabulary, std::string_view where,
                         std::size_t index) {
  const std::size_t space = merge.find(' ');
  const bool two_words = space != std::string::npos && merge.find(' ', space + 1) == std::string::npos;
  if (two_words) {
    const std::string left = merge.substr(0, space);
    const std::string right = merge.substr(space + 1);
    if (vocabulary.contains(left) && vocabulary.contains(right) && vocabulary.contains(left + right))
      return Json::array({left, right});
  }
  return fail(ErrorCode::bad_input,
              "{}: tokenizer.ggml.merges[{}]: \"{}\": expected two tokens that form a third", where, index,
              printable(merge));
}

/// One way to put a piece together. The pieces are looked up by text, so the views are of the metadata.
struct PieceMerge {
  double score;
  std::size_t left_characters, right_characters;
  std::int64_t left_id, right_id;
  std::string_view left, right;
};

bool starts_character(char byte) {
  return (static_cast<unsigned char>(byte) & 0xc0) != 0x80;
}

std::size_t count_characters(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), starts_character));
}

bool is_normal_piece(const GgufTokenizerMetadata& metadata, const GgufVocabulary& vocabulary,
                     std::string_view piece, std::int64_t* id) {
  const auto found = vocabulary.find(piece);
  if (found == vocabulary.end()) return false;
  *id = found->second;
  return gguf_token_type(metadata, static_cast<std::size_t>(*id)) == GgufTokenType::normal;
}

/// All ways to split `piece`, in the order of the ids of the left part, then of the right one.
std::vector<PieceMerge> merges_of_piece(const GgufTokenizerMetadata& metadata,
                                        const GgufVocabulary& vocabulary, std::string_view piece,
                                        double score) {
  std::vector<PieceMerge> merges;
  for (std::size_t cut = 1; cut < piece.size(); ++cut) {
    if (!starts_character(piece[cut])) continue;
    PieceMerge merge{score, 0, 0, 0, 0, piece.substr(0, cut), piece.substr(cut)};
    if (!is_normal_piece(metadata, vocabulary, merge.left, &merge.left_id)) continue;
    if (!is_normal_piece(metadata, vocabulary, merge.right, &merge.right_id)) continue;
    merge.left_characters = count_characters(merge.left);
    merge.right_characters = count_characters(merge.right);
    merges.push_back(merge);
  }
  std::sort(merges.begin(), merges.end(), [](const PieceMerge& a, const PieceMerge& b) {
    return std::tie(a.left_id, a.right_id) < std::tie(b.left_id, b.right_id);
  });
  return merges;
}

/// Best score first; of equals the longer left part, then the longer right part, then the smaller ids.
Result<Json> piece_merges(const GgufTokenizerMetadata& metadata, const GgufVocabulary& vocabulary,
                          std::string_view where) {
  std::vector<PieceMerge> merges;
  for (std::size_t id = 0; id < metadata.tokens.size(); ++id) {
    const std::string& piece = metadata.tokens[id];
    if (gguf_token_type(metadata, id) != GgufTokenType::normal) continue;
    if (piece.size() > kLongestPieceBytes) {
      return fail(ErrorCode::bad_input, "{}: tokenizer.ggml.tokens[{}]: expected at most {} bytes, got {}",
                  where, id, kLongestPieceBytes, piece.size());
    }
    const auto ways = merges_of_piece(metadata, vocabulary, piece, metadata.scores[id]);
    merges.insert(merges.end(), ways.begin(), ways.end());
  }
  std::stable_sort(merges.begin(), merges.end(), [](const PieceMerge& a, const PieceMerge& b) {
    return std::tie(a.score, a.left_characters, a.right_characters) >
           std::tie(b.score, b.left_characters, b.right_characters);
  });
  Json pairs = Json::array();
  for (const PieceMerge& merge : merges) pairs.push_back(Json::array({merge.left, merge.right}));
  return pairs;
}

Json replace(std::string_view from, std::string_view to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

}  // namespace

GgufTokenType gguf_token_type(const GgufTokenizerMetadata& metadata, std::size_t id) {
  if (metadata.token_types.empty()) return GgufTokenType::normal;
  return static_cast<GgufTokenType>(metadata.token_types[id]);
}

Result<GgufTokenizerModel> byte_level_model(const GgufTokenizerMetadata& metadata,
                                            const GgufVocabulary& vocabulary, std::string_view where) {
  OPTIQ_TRY(const Style style, find_style(metadata.pre, where));
  Json merges = Json::array();
  for (std::size_t i = 0; i < metadata.merges.size(); ++i) {
    OPTIQ_TRY(Json merge, parse_merge(metadata.merges[i], vocabulary, where, i));
    merges.push_back(std::move(merge));
  }
  GgufTokenizerModel built;
  if (style.composes) built.normalizer = Json{{"type", "NFC"}};
  built.pre_tokenizer = style.pre_tokenizer();
  built.decoder = byte_level(true);
  built.model = bpe_model(nullptr, false, style.ignore_merges, std::move(merges));
  built.adds_bos_by_default = style.adds_bos;
  return built;
}

Result<GgufTokenizerModel> sentence_piece_model(const GgufTokenizerMetadata& metadata,
                                                const GgufVocabulary& vocabulary, std::string_view where) {
  OPTIQ_TRY(Json merges, piece_merges(metadata, vocabulary, where));
  const bool prefix = metadata.add_space_prefix.value_or(true);
  Json normalizers = Json::array();
  if (prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", kSpacePiece}});
  normalizers.push_back(replace(" ", kSpacePiece));
  Json decoders = Json::array({replace(kSpacePiece, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}});
  if (prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  Json unk_token;
  if (metadata.unk) unk_token = metadata.tokens[static_cast<std::size_t>(*metadata.unk)];
  GgufTokenizerModel built;
  built.normalizer = sequence("normalizers", std::move(normalizers));
  built.decoder = sequence("decoders", std::move(decoders));
  built.model = bpe_model(std::move(unk_token), true, false, std::move(merges));
  built.adds_bos_by_default = true;
  return built;
}

}  // namespace optiq::io
