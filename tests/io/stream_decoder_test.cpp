#include <gtest/gtest.h>

#include "optiq/base/random.h"
#include "optiq/io/tokenizer.h"
#include "support/seed.h"
#include "support/tokenizers.h"

namespace optiq::io {
namespace {

using Ids = std::vector<std::int32_t>;

/// nlohmann refuses to write a string that is not UTF-8: a judge that shares nothing with the decoder.
bool is_utf8(const std::string& text) {
  try {
    return !Json(text).dump().empty();
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

/// The pieces of a stream, the last of them from finish().
std::vector<std::string> stream(StreamDecoder& decoder, const Ids& tokens) {
  std::vector<std::string> pieces;
  for (const std::int32_t token : tokens) pieces.push_back(decoder.push(token).value());
  pieces.push_back(decoder.finish().value());
  return pieces;
}

void expect_streams_as_whole(const Tokenizer& tokenizer, StreamDecoder& decoder, const Ids& tokens) {
  std::string all;
  for (const std::string& piece : stream(decoder, tokens)) {
    EXPECT_TRUE(is_utf8(piece));
    all += piece;
  }
  EXPECT_EQ(all, tokenizer.decode(tokens, true).value()) << Json(tokens).dump();
}

/// Mostly tokens of text, and runs of byte tokens and special ones, which random ids rarely form.
Ids random_tokens(Random& random, const Tokenizer& tokenizer) {
  const auto size = static_cast<std::int64_t>(tokenizer.vocabulary_size());
  const auto narrow = random.below(2) == 0 ? size + 4 : 300;
  Ids tokens(random.below(120));
  for (std::int32_t& token : tokens)
    token = static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(narrow)));
  return tokens;
}

TEST(StreamDecoder, RandomTokensStreamAsTheyDecode) {
  for (const std::string& name : test::kTinyTokenizers) {
    SCOPED_TRACE(name);
    const Tokenizer tokenizer = test::tiny_tokenizer(name);
    StreamDecoder decoder(tokenizer);
    Random random(test::seed());
    for (int i = 0; i < 600; ++i)
      expect_streams_as_whole(tokenizer, decoder, random_tokens(random, tokenizer));
  }
}

TEST(StreamDecoder, TextsStreamAsTheyDecode) {
  for (const std::string& name : test::kTinyTokenizers) {
    SCOPED_TRACE(name);
    const Tokenizer tokenizer = test::tiny_tokenizer(name);
    StreamDecoder decoder(tokenizer);
    const Json encodings = test::tokenizer_golden(name + ".json")["encodings"];
    ASSERT_FALSE(encodings.empty());
    for (const Json& golden : encodings) {
      expect_streams_as_whole(tokenizer, decoder, golden["ids_with_special"].get<Ids>());
    }
  }
}

TEST(StreamDecoder, ShowsTextAsSoonAsItIsComplete) {
  const Tokenizer tokenizer = test::tiny_tokenizer("byte_bpe");
  StreamDecoder decoder(tokenizer);
  const Ids gothic = tokenizer.encode("a\xf0\x90\x8d\x88!", false).value();
  ASSERT_EQ(gothic.size(), 6u) << "the character should be spelled byte by byte";
  const std::vector<std::string> expected{"a", "", "", "", "\xf0\x90\x8d\x88", "!", ""};
  EXPECT_EQ(stream(decoder, gothic), expected);
}

TEST(StreamDecoder, AnUnfinishedCharacterEndsAsReplacement) {
  const Tokenizer tokenizer = test::tiny_tokenizer("byte_bpe");
  StreamDecoder decoder(tokenizer);
  Ids tokens = tokenizer.encode("a\xf0\x90\x8d\x88", false).value();
  tokens.pop_back();
  const std::vector<std::string> expected{"a", "", "", "", "\xef\xbf\xbd"};
  EXPECT_EQ(stream(decoder, tokens), expected);
}

TEST(StreamDecoder, ByteTokensWaitForTheNextToken) {
  const Tokenizer tokenizer = test::tiny_tokenizer("spm_bpe");
  StreamDecoder decoder(tokenizer);
  const std::int32_t byte = *tokenizer.token_id("<0x41>");
  const std::int32_t letter = *tokenizer.token_id("e");
  EXPECT_EQ(decoder.push(byte).value(), "");
  EXPECT_EQ(decoder.push(letter).value(), "Ae");
  EXPECT_EQ(decoder.push(byte).value(), "");
  EXPECT_EQ(decoder.finish().value(), "A");
}

TEST(StreamDecoder, RefusesNegativeIds) {
  StreamDecoder decoder(test::tiny_tokenizer("byte_bpe"));
  EXPECT_EQ(decoder.push(-1).error().code, ErrorCode::bad_input);
}

}  // namespace
}  // namespace optiq::io
