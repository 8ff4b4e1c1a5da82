#include "optiq/io/tokenizer.h"

#include <gtest/gtest.h>

#include <thread>

#include "optiq/base/file.h"
#include "support/contains.h"
#include "support/reference_model.h"
#include "support/temporary_folder.h"
#include "support/tokenizers.h"

namespace optiq::io {
namespace {

namespace fs = std::filesystem;
using test::contains;
using Ids = std::vector<std::int32_t>;

void expect_encodings(const Tokenizer& tokenizer, const Json& encodings) {
  ASSERT_FALSE(encodings.empty());
  for (const Json& golden : encodings) {
    const auto text = golden["text"].get<std::string>();
    SCOPED_TRACE(golden["text"].dump().substr(0, 200));
    const auto with_special = golden["ids_with_special"].get<Ids>();
    EXPECT_EQ(tokenizer.encode(text, false).value(), golden["ids"].get<Ids>());
    EXPECT_EQ(tokenizer.encode(text, true).value(), with_special);
    EXPECT_EQ(tokenizer.decode(with_special, false).value(), golden["decoded"].get<std::string>());
    EXPECT_EQ(tokenizer.decode(with_special, true).value(), golden["decoded_skipping"].get<std::string>());
  }
}

void expect_decodings(const Tokenizer& tokenizer, const Json& decodings) {
  ASSERT_FALSE(decodings.empty());
  for (const Json& golden : decodings) {
    const auto ids = golden["ids"].get<Ids>();
    EXPECT_EQ(tokenizer.decode(ids, false).value(), golden["decoded"].get<std::string>());
    EXPECT_EQ(tokenizer.decode(ids, true).value(), golden["decoded_skipping"].get<std::string>());
  }
}

/// A folder with byte_bpe's tokenizer.json, for one test's own configuration files.
class TokenizerFolder : public testing::Test {
 protected:
  void SetUp() override {
    fs::copy_file(test::tokenizer_goldens() / "byte_bpe" / "tokenizer.json", path() / "tokenizer.json");
  }
  [[nodiscard]] const fs::path& path() const { return folder_.path(); }
  void write(const char* name, std::string_view text) const { test::write_text(path() / name, text); }
  [[nodiscard]] Tokenizer open() const { return Tokenizer::open(path()).value(); }
  [[nodiscard]] Error error() const {
    const auto opened = Tokenizer::open(path());
    EXPECT_FALSE(opened);
    return opened ? Error{} : opened.error();
  }

 private:
  test::TemporaryFolder folder_;
};

TEST(Tokenizer, EqualsTheGoldensOfTinyTokenizers) {
  for (const std::string& name : test::kTinyTokenizers) {
    SCOPED_TRACE(name);
    const Json golden = test::tokenizer_golden(name + ".json");
    expect_encodings(test::tiny_tokenizer(name), golden["encodings"]);
    expect_decodings(test::tiny_tokenizer(name), golden["decodings"]);
  }
}

TEST(Tokenizer, EqualsTheGoldensOfSmolLm2) {
  const auto data = test::evaluation_data();
  OPTIQ_SKIP_WITHOUT_DATA(data);
  const Tokenizer tokenizer = Tokenizer::open(*data / "smollm2").value();
  const Json golden = test::tokenizer_golden("smollm2.json");
  expect_encodings(tokenizer, golden["encodings"]);
  expect_decodings(tokenizer, golden["decodings"]);
  EXPECT_EQ(tokenizer.vocabulary_size(), 49152u);
  EXPECT_EQ(tokenizer.bos_token(), 1);
  EXPECT_EQ(tokenizer.eos_tokens(), Ids{2});
  EXPECT_FALSE(tokenizer.has_chat_template());
}

/// The committed tokenizers ask for truncation to 16 tokens; texts are longer in the goldens above, too.
TEST(Tokenizer, NeverTruncates) {
  const Tokenizer tokenizer = test::tiny_tokenizer("byte_bpe");
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "quick brown ";
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, false).value(), false).value(), text);
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const Tokenizer tokenizer = test::tiny_tokenizer("byte_bpe");
  for (const std::string_view bad : {"abc\xff", "abc\xe4\xbd", "abc\xed\xa0\x80", "abc\xc0\xaf"}) {
    const auto tokens = tokenizer.encode(bad, false);
    ASSERT_FALSE(tokens);
    EXPECT_EQ(tokens.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(contains(tokens.error().message, "not valid UTF-8 at byte 3"));
  }
}

TEST(Tokenizer, UnknownIdsDecodeToNothingAndNegativeOnesAreRefused) {
  const Tokenizer tokenizer = test::tiny_tokenizer("byte_bpe");
  const Ids hello = tokenizer.encode("hello", false).value();
  Ids padded = hello;
  padded.push_back(1 << 30);
  EXPECT_EQ(tokenizer.decode(padded, false).value(), "hello");
  EXPECT_EQ(tokenizer.decode(Ids{3, -7}, false).error().message, "tokens to decode: -7 at 1 is no token id");
}

TEST(Tokenizer, FindsTokensByTextAndKind) {
  const Tokenizer tokenizer = test::tiny_tokenizer("spm_bpe");
  EXPECT_EQ(tokenizer.token_id("<s>"), 1);
  EXPECT_EQ(tokenizer.token_id("no such token"), std::nullopt);
  EXPECT_EQ(tokenizer.token_kind(1).value(), TokenKind::silent);
  EXPECT_EQ(tokenizer.token_kind(1 << 30).value(), TokenKind::silent);
  EXPECT_EQ(tokenizer.token_kind(*tokenizer.token_id("<0x41>")).value(), TokenKind::byte);
  EXPECT_EQ(tokenizer.token_kind(*tokenizer.token_id("<|user|>")).value(), TokenKind::text);
  EXPECT_FALSE(tokenizer.token_kind(-1));
}

TEST(Tokenizer, ThreadsShareOne) {
  const Tokenizer tokenizer = test::tiny_tokenizer("spm_bpe");
  const Json encodings = test::tokenizer_golden("spm_bpe.json")["encodings"];
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([&] { expect_encodings(tokenizer, encodings); });
  for (std::thread& thread : threads) thread.join();
}

TEST_F(TokenizerFolder, EveryFileMayNameTokensThatEndAGeneration) {
  write("generation_config.json", R"({"eos_token_id": [5, 7]})");
  write("config.json", R"({"eos_token_id": 7, "bos_token_id": 9})");
  write("tokenizer_config.json", R"({"eos_token": {"content": "<|im_end|>"}})");
  const Tokenizer tokenizer = open();
  EXPECT_EQ(tokenizer.eos_tokens(), (Ids{5, 7, *tokenizer.token_id("<|im_end|>")}));
  EXPECT_EQ(tokenizer.bos_token(), 9);
}

TEST_F(TokenizerFolder, ANullBosTokenIsNone) {
  write("config.json", R"({"bos_token_id": 9})");
  write("tokenizer_config.json", R"({"bos_token": null})");
  EXPECT_EQ(open().bos_token(), std::nullopt);
}

TEST_F(TokenizerFolder, TokenizerJsonAloneIsEnough) {
  EXPECT_EQ(open().bos_token(), std::nullopt);
  EXPECT_TRUE(open().eos_tokens().empty());
}

TEST_F(TokenizerFolder, MalformedConfigurationsNameTheFile) {
  write("generation_config.json", R"({"eos_token_id": [5, "x"]})");
  EXPECT_TRUE(contains(error().message, "generation_config.json: \"eos_token_id\": expected a token id"));
  write("generation_config.json", R"({"eos_token_id": 4294967296})");
  EXPECT_EQ(error().code, ErrorCode::bad_input);
  write("generation_config.json", "[]");
  EXPECT_TRUE(contains(error().message, "expected an object, got array"));
  write("generation_config.json", "{");
  EXPECT_TRUE(contains(error().message, "generation_config.json"));
}

TEST_F(TokenizerFolder, AMissingTokenizerNamesTheFile) {
  fs::remove(path() / "tokenizer.json");
  EXPECT_TRUE(contains(error().message, "tokenizer.json: cannot open"));
}

TEST_F(TokenizerFolder, MalformedTokenizersAreBadInputAndNameTheFile) {
  const std::string whole = read_text_file(path() / "tokenizer.json").value();
  const std::string deep = R"({"model":)" + std::string(100000, '[');
  const std::vector<std::string> bad{
      "",
      "{}",
      "null",
      "[1]",
      "\xff\xfe",
      whole.substr(0, whole.size() / 2),
      deep,
      R"({"model": {"type": "BPE", "vocab": [], "merges": {}}})",
      R"({"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}})",
      R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}})",
      R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a"]]}})",
      R"({"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 5}})",
      R"({"model": {"type": "Unigram", "vocab": [["a", "b"]], "unk_id": 0}})",
      R"({"model": {"type": "None"}})",
      R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated", "invert": false},
          "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})",
      R"({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
          "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})"};
  for (const std::string& text : bad) {
    SCOPED_TRACE(text.substr(0, 120));
    write("tokenizer.json", text);
    const Error refused = error();
    EXPECT_EQ(refused.code, ErrorCode::bad_input);
    EXPECT_TRUE(contains(refused.message, (path() / "tokenizer.json").string() + ": "));
  }
}

TEST_F(TokenizerFolder, EveryCutOfAFileIsRefused) {
  const std::string whole = read_text_file(path() / "tokenizer.json").value();
  const std::string content = whole.substr(0, whole.find_last_of('}'));
  for (std::size_t size = 0; size < content.size(); size += 97) {
    write("tokenizer.json", content.substr(0, size));
    EXPECT_EQ(error().code, ErrorCode::bad_input);
  }
}

}  // namespace
}  // namespace optiq::io
