#include "optiq/io/gguf_tokenizer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "optiq/base/file.h"
#include "optiq/io/tokenizer.h"
#include "support/contains.h"
#include "support/gguf_builder.h"
#include "support/reference_model.h"
#include "support/temporary_folder.h"
#include "support/tokenizers.h"

namespace optiq::io {
namespace {

namespace fs = std::filesystem;
using test::contains;
using Ids = std::vector<std::int32_t>;

Tokenizer open_rebuilt(const GgufTokenizerFiles& files) {
  const test::TemporaryFolder folder;
  test::write_text(folder.path() / "tokenizer.json", files.tokenizer.dump());
  test::write_text(folder.path() / "tokenizer_config.json", files.config.dump());
  return Tokenizer::open(folder.path()).value();
}

GgufTokenizerMetadata golden_metadata(const Json& golden, std::string_view model) {
  GgufTokenizerMetadata metadata;
  metadata.model = model;
  metadata.tokens = golden["tokens"].get<std::vector<std::string>>();
  metadata.token_types = golden["token_types"].get<std::vector<std::int64_t>>();
  metadata.bos = golden["bos"].get<std::int64_t>();
  metadata.eos = golden["eos"].get<std::int64_t>();
  return metadata;
}

void expect_encodings(const Tokenizer& tokenizer, const Json& texts, const Json& ids) {
  ASSERT_EQ(texts.size(), ids.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(tokenizer.encode(texts[i].get<std::string>(), true).value(), ids[i].get<Ids>()) << texts[i];
  }
}

TEST(GgufTokenizer, ByteLevelEncodingsEqualTheOriginals) {
  const Json golden = test::tokenizer_golden("gguf_gpt2.json");
  GgufTokenizerMetadata metadata = golden_metadata(golden, "gpt2");
  metadata.merges = golden["merges"].get<std::vector<std::string>>();
  ASSERT_EQ(golden["styles"].size(), 5u);
  for (const Json& style : golden["styles"]) {
    metadata.pre = style["pre"].get<std::string>();
    SCOPED_TRACE(metadata.pre);
    expect_encodings(open_rebuilt(rebuild_gguf_tokenizer(metadata, "x.gguf").value()), golden["texts"],
                     style["ids"]);
  }
}

GgufTokenizerMetadata golden_llama(const Json& golden) {
  GgufTokenizerMetadata metadata = golden_metadata(golden, "llama");
  metadata.scores = golden["scores"].get<std::vector<double>>();
  metadata.unk = golden["unk"].get<std::int64_t>();
  return metadata;
}

TEST(GgufTokenizer, SentencePieceEncodingsEqualTheOriginals) {
  const Json golden = test::tokenizer_golden("gguf_llama.json");
  const Tokenizer tokenizer = open_rebuilt(rebuild_gguf_tokenizer(golden_llama(golden), "x.gguf").value());
  expect_encodings(tokenizer, golden["texts"], golden["ids"]);
  EXPECT_EQ(tokenizer.bos_token(), 1);
  EXPECT_EQ(tokenizer.eos_tokens(), Ids{2});
  const Ids ids = tokenizer.encode("The quick é\xf0\x9f\x9b\xb8", true).value();
  EXPECT_EQ(tokenizer.decode(ids, true).value(), "The quick é\xf0\x9f\x9b\xb8");
}

TEST(GgufTokenizer, FlagsDecideAboutSpecialTokensAndTheSpaceInFront) {
  GgufTokenizerMetadata metadata = golden_llama(test::tokenizer_golden("gguf_llama.json"));
  metadata.add_bos = false;
  metadata.add_eos = true;
  metadata.add_space_prefix = false;
  const Tokenizer tokenizer = open_rebuilt(rebuild_gguf_tokenizer(metadata, "x.gguf").value());
  EXPECT_EQ(tokenizer.encode("e", true).value(), (Ids{*tokenizer.token_id("e"), 2}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(" e", false).value(), true).value(), " e");
}

/// "abcd" is better made of "ab" and "cd" (score -2) than of "bc" (-3).
TEST(GgufTokenizer, HigherScoresMergeFirst) {
  GgufTokenizerMetadata metadata;
  metadata.model = "llama";
  metadata.add_space_prefix = false;
  metadata.tokens = {"<unk>", "a", "b", "c", "d", "bc", "ab", "cd"};
  metadata.scores = {0, -10, -11, -12, -13, -3, -2, -2};
  metadata.token_types = {2, 1, 1, 1, 1, 1, 1, 1};
  metadata.unk = 0;
  EXPECT_EQ(open_rebuilt(rebuild_gguf_tokenizer(metadata, "x").value()).encode("abcd", false).value(),
            (Ids{6, 7}));
  metadata.scores[5] = -1;
  EXPECT_EQ(open_rebuilt(rebuild_gguf_tokenizer(metadata, "x").value()).encode("abcd", false).value(),
            (Ids{1, 5, 4}));
}

/// llama.cpp's four patterns one after another, by hand: punctuation, words, digits, groups of three digits.
TEST(GgufTokenizer, AnUnnamedPreTokenizerSplitsAsLlamaCppDoes) {
  GgufTokenizerMetadata metadata;
  metadata.model = "gpt2";
  metadata.tokens = {"a", "b", "1", "!", "Ġ", "aa", "!!", "11", "Ġ1", "Ġa", "!a", "1a"};
  metadata.merges = {"a a", "! !", "1 1", "Ġ 1", "Ġ a", "! a", "1 a"};
  const Tokenizer tokenizer = open_rebuilt(rebuild_gguf_tokenizer(metadata, "x").value());
  EXPECT_EQ(tokenizer.encode("aa!!aa 1111a a", false).value(), (Ids{5, 6, 5, 4, 7, 2, 2, 0, 9}));
}

TEST(GgufTokenizer, UnusedTokensAreLeftOut) {
  GgufTokenizerMetadata metadata;
  metadata.model = "gpt2";
  metadata.pre = "llama-bpe";  // where a word that is a token becomes that token
  metadata.tokens = {"P", "A", "D", "PAD"};
  metadata.token_types = {1, 1, 1, 1};
  EXPECT_EQ(open_rebuilt(rebuild_gguf_tokenizer(metadata, "x").value()).encode("PAD", false).value(), Ids{3});
  metadata.token_types[3] = 5;
  EXPECT_EQ(open_rebuilt(rebuild_gguf_tokenizer(metadata, "x").value()).encode("PAD", false).value(),
            (Ids{0, 1, 2}));
}

TEST(GgufTokenizer, RefusesPartsThatDoNotFit) {
  GgufTokenizerMetadata good;
  good.model = "gpt2";
  good.pre = "gpt-2";
  good.tokens = {"a", "b", "ab"};
  good.merges = {"a b"};
  ASSERT_TRUE(rebuild_gguf_tokenizer(good, "x.gguf"));
  const auto expect_refused = [&](const char* message, const auto& change) {
    GgufTokenizerMetadata bad = good;
    change(bad);
    const auto files = rebuild_gguf_tokenizer(bad, "x.gguf");
    ASSERT_FALSE(files) << message;
    EXPECT_EQ(files.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(contains(files.error().message, "x.gguf: tokenizer.ggml."));
    EXPECT_TRUE(contains(files.error().message, message));
  };
  expect_refused("\"rwkv\"", [](auto& bad) { bad.model = "rwkv"; });
  expect_refused("\"gpt-9\" is unknown; known: smollm", [](auto& bad) { bad.pre = "gpt-9"; });
  expect_refused("token_type: expected 3 entries, got 1", [](auto& bad) { bad.token_types = {1}; });
  expect_refused("token_type[1]: expected 1 to 6, got 7", [](auto& bad) { bad.token_types = {1, 7, 1}; });
  expect_refused("scores: expected 3 entries, got 0", [](auto& bad) { bad.model = "llama"; });
  expect_refused("scores[2]", [](auto& bad) { bad.scores = {0, 0, std::nan("")}; });
  expect_refused("bos_token_id: expected less than 3 tokens, got 3", [](auto& bad) { bad.bos = 3; });
  expect_refused("eos_token_id", [](auto& bad) { bad.eos = -1; });
  expect_refused("0 and 3 are both \"a\"", [](auto& bad) { bad.tokens.push_back("a"); });
  for (const char* merge : {"a c", "b a", "ab", "a b c", "", " ", "a ", " b"})
    expect_refused("merges[1]", [&](auto& bad) { bad.merges.push_back(merge); });
  expect_refused("expected at most 1024 bytes", [](auto& bad) {
    bad.model = "llama";
    bad.tokens.push_back(std::string(2000, 'x'));
    bad.scores = {0, 0, 0, 0};
  });
}

TEST(GgufTokenizer, ReadsTheMetadataOfAFile) {
  test::GgufBuilder builder;
  builder.string("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", {"<unk>", "x"});
  builder.array<float>("tokenizer.ggml.scores", GgufValueType::f32, {0.0f, -1.5f});
  builder.array<std::int32_t>("tokenizer.ggml.token_type", GgufValueType::i32, {2, 1});
  builder.u32("tokenizer.ggml.unknown_token_id", 0).boolean("tokenizer.ggml.add_bos_token", true);
  builder.string("tokenizer.chat_template", "{{ messages }}");
  const std::vector<std::byte> bytes = builder.build();
  const GgufFile file = GgufFile::parse(bytes, "x.gguf").value();
  const GgufTokenizerMetadata read = read_gguf_tokenizer(file.metadata()).value();
  EXPECT_EQ(read.model, "llama");
  EXPECT_EQ(read.pre, "default");
  EXPECT_EQ(read.tokens, (std::vector<std::string>{"<unk>", "x"}));
  EXPECT_EQ(read.scores, (std::vector<double>{0, -1.5}));
  EXPECT_EQ(read.token_types, (std::vector<std::int64_t>{2, 1}));
  EXPECT_EQ(read.unk, 0);
  EXPECT_EQ(read.bos, std::nullopt);
  EXPECT_EQ(read.add_bos, true);
  EXPECT_EQ(read.add_eos, std::nullopt);
  EXPECT_EQ(read.chat_template, "{{ messages }}");
}

TEST(GgufTokenizer, AFileWithoutTokensIsBadInput) {
  const std::vector<std::byte> bytes = test::GgufBuilder().string("tokenizer.ggml.model", "gpt2").build();
  const GgufFile file = GgufFile::parse(bytes, "x.gguf").value();
  EXPECT_TRUE(contains(read_gguf_tokenizer(file.metadata()).error().message, "tokenizer.ggml.tokens"));
}

/// SmolLM2's GGUF against SmolLM2's own tokenizer.json.
class ReferenceGguf : public testing::Test {
 protected:
  void SetUp() override {
    const auto gguf = test::reference_gguf(), data = test::evaluation_data();
    OPTIQ_SKIP_WITHOUT_REFERENCE(gguf);
    OPTIQ_SKIP_WITHOUT_DATA(data);
    data_ = *data;
    const GgufFile file = GgufFile::open(*gguf).value();
    const auto metadata = read_gguf_tokenizer(file.metadata()).value();
    rebuilt_ = open_rebuilt(rebuild_gguf_tokenizer(metadata, gguf->string()).value());
  }
  fs::path data_;
  std::optional<Tokenizer> rebuilt_;
};

TEST_F(ReferenceGguf, EncodesAllOfWikiTextAsTheOriginal) {
  const Tokenizer original = Tokenizer::open(data_ / "smollm2").value();
  const std::string text = read_text_file(data_ / "wikitext2" / "wiki.test.raw").value();
  const Ids expected = original.encode(text, false).value();
  EXPECT_GT(expected.size(), 200000u);
  EXPECT_TRUE(rebuilt_->encode(text, false).value() == expected);
  EXPECT_EQ(rebuilt_->eos_tokens(), original.eos_tokens());
  EXPECT_EQ(rebuilt_->bos_token(), original.bos_token());
}

TEST_F(ReferenceGguf, RendersItsChatTemplateAsTransformersDoes) {
  const Json golden = test::tokenizer_golden("chat.json")["smollm2"];
  EXPECT_EQ(rebuilt_->apply_chat_template(golden["messages"], true).value(),
            golden["rendered"].get<std::string>());
}

}  // namespace
}  // namespace optiq::io
