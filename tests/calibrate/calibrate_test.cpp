#include "optiq/calibrate/calibrate.h"

#include <gtest/gtest.h>

#include <set>

#include "support/contains.h"
#include "support/seed.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace optiq::calibrate {
namespace {

using Tokens = std::vector<std::int32_t>;

constexpr std::string_view kTemplate =
    "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}";

class Calibrate : public testing::Test {
 protected:
  Calibrate()
      : random_(test::seed()),
        model_(test::open_model(
            test::resized(test::ModelFolder::golden("llama"), random_, test::kTinyVocabulary, 1024),
            folder_.path() / "model")) {}

  io::Tokenizer tokenizer(std::string_view name) {
    const auto folder = folder_.path() / name;
    test::copy_tokenizer(name, folder);
    test::write_text(folder / "chat_template.jinja", kTemplate);
    return io::Tokenizer::open(folder).value();
  }

  std::filesystem::path file(std::string_view name, std::string_view text) {
    test::write_text(folder_.path() / name, text);
    return folder_.path() / name;
  }

  Result<TokenBatch> load_file(std::string_view name, std::string_view text, Source source = {}) {
    source.parts = {Part{file(name, text).string()}};
    return load(source, model_, tokenizer("byte_bpe"), nullptr);
  }

  test::TemporaryFolder folder_;
  Random random_;
  model::Model model_;
};

/// Text no two windows of which are alike.
std::string counting(int words) {
  std::string text;
  for (int i = 0; i < words; ++i) text += "word " + std::to_string(i) + ", ";
  return text;
}

/// Where in the stream each row comes from, in windows.
std::vector<std::size_t> places(const TokenBatch& batch, const Tokens& stream) {
  const auto width = static_cast<std::size_t>(batch.tokens);
  std::vector<std::size_t> found;
  for (std::int64_t row = 0; row < batch.sequences; ++row) {
    for (std::size_t window = 0; (window + 1) * width <= stream.size(); ++window) {
      const auto begin = stream.begin() + static_cast<std::ptrdiff_t>(window * width);
      if (std::equal(batch.row(row).begin(), batch.row(row).end(), begin)) found.push_back(window);
    }
  }
  return found;
}

TEST_F(Calibrate, TextGivesDisjointWindowsInTheStreamsOrder) {
  const std::string text = counting(400);
  const Tokens stream = tokenizer("byte_bpe").encode(text, false).value();
  const TokenBatch batch = load_file("a.txt", text, {.sequences = 7, .tokens = 16, .seed = 3}).value();
  EXPECT_EQ(batch.sequences, 7);
  EXPECT_EQ(batch.tokens, 16);
  ASSERT_EQ(batch.ids.size(), 7u * 16);
  const auto windows = places(batch, stream);
  ASSERT_EQ(windows.size(), 7u);
  EXPECT_TRUE(std::is_sorted(windows.begin(), windows.end()));
  EXPECT_EQ(std::set(windows.begin(), windows.end()).size(), 7u);
}

TEST_F(Calibrate, TheChoiceOfWindowsFollowsTheSeed) {
  const std::string text = counting(400);
  const auto chosen = [&](std::uint64_t seed) {
    return load_file("a.txt", text, {.sequences = 5, .tokens = 16, .seed = seed}).value().ids;
  };
  EXPECT_EQ(chosen(1), chosen(1));
  EXPECT_NE(chosen(1), chosen(2));
}

TEST_F(Calibrate, EveryWindowIsChosenEquallyOften) {
  const std::string text = counting(60);
  const Tokens stream = tokenizer("byte_bpe").encode(text, false).value();
  const std::size_t windows = stream.size() / 16;
  std::vector<int> counts(windows, 0);
  for (std::uint64_t seed = 0; seed < 600; ++seed) {
    const auto batch = load_file("a.txt", text, {.sequences = 1, .tokens = 16, .seed = seed}).value();
    ++counts[places(batch, stream).at(0)];
  }
  const test::Doubles uniform(windows, 1.0 / static_cast<double>(windows));
  EXPECT_LT(test::chi_square_deviation(counts, uniform), 7);
}

TEST_F(Calibrate, AShortFileGivesWhatItHolds) {
  const std::string text = counting(20);
  const Tokens stream = tokenizer("byte_bpe").encode(text, false).value();
  const auto few = load_file("a.txt", text, {.sequences = 100, .tokens = 16}).value();
  EXPECT_EQ(few.sequences, static_cast<std::int64_t>(stream.size() / 16));
  EXPECT_EQ(few.tokens, 16);
  const auto one = load_file("b.txt", "two words", {.sequences = 100, .tokens = 100}).value();
  EXPECT_EQ(one.sequences, 1);
  EXPECT_EQ(one.ids, tokenizer("byte_bpe").encode("two words", false).value());
  EXPECT_EQ(one.tokens, static_cast<std::int64_t>(one.ids.size()));
}

TEST_F(Calibrate, ArrayIsOneRow) {
  const TokenBatch batch{2, 3, {1, 2, 3, 4, 5, 6}};
  EXPECT_EQ(batch.array(1).shape(), (test::mx::Shape{1, 3}));
  EXPECT_EQ(test::values(batch.array(1)), (test::Doubles{4, 5, 6}));
}

TEST_F(Calibrate, JsonLinesOfEveryKindFollowOneAnother) {
  const char* lines =
      "{\"text\": \"some plain text\"}\n"
      "\n"
      "{\"prompt\": \"a question \", \"completion\": \"an answer\"}\r\n"
      "{\"prompt\": \"alone\", \"other\": 3}\n"
      "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}";
  const char* documents[] = {"some plain text", "a question an answer", "alone",
                             "<|im_start|>user: hi<|im_end|>"};
  for (const std::string name : {"byte_bpe", "spm_bpe"}) {
    SCOPED_TRACE(name);
    const io::Tokenizer t = tokenizer(name);
    Tokens expected;
    for (const char* document : documents) {
      const Tokens part = t.encode(document, true).value();
      expected.insert(expected.end(), part.begin(), part.end());
      expected.push_back(t.eos_tokens().front());
    }
    const Source source{.parts = {Part{file("a.jsonl", lines).string()}}, .sequences = 1000, .tokens = 2};
    const Tokens ids = load(source, model_, t, nullptr).value().ids;
    expected.resize(expected.size() / 2 * 2);
    EXPECT_EQ(ids, expected);
  }
}

TEST_F(Calibrate, BadJsonLinesAreNamed) {
  const std::string good = "{\"text\": \"fine\"}\n";
  const char* bad[] = {"{\"text\": ",          "[1, 2]",        "3",
                       "{\"other\": \"x\"}",   "{\"text\": 4}", "{\"prompt\": \"x\", \"completion\": 7}",
                       "{\"messages\": \"x\"}"};
  for (const char* line : bad) {
    SCOPED_TRACE(line);
    const auto batch = load_file("a.jsonl", good + "\n" + line + "\n" + good);
    ASSERT_FALSE(batch);
    EXPECT_EQ(batch.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(test::contains(batch.error().message, "a.jsonl:3"));
  }
}

TEST_F(Calibrate, AFailingChatTemplateNamesTheLine) {
  const auto folder = folder_.path() / "broken";
  test::copy_tokenizer("byte_bpe", folder);
  test::write_text(folder / "chat_template.jinja", "{{ raise_exception('no such role') }}");
  const Source source{
      .parts = {
          Part{file("a.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}").string()}}};
  const auto batch = load(source, model_, io::Tokenizer::open(folder).value(), nullptr);
  ASSERT_FALSE(batch);
  EXPECT_EQ(batch.error().code, ErrorCode::bad_input);
  EXPECT_TRUE(test::contains(batch.error().message, "a.jsonl:1"));
  EXPECT_TRUE(test::contains(batch.error().message, "no such role"));
}

TEST_F(Calibrate, EmptyMissingAndInvalidFilesAreBadInput) {
  for (const char* name : {"empty.txt", "empty.jsonl"}) {
    const auto batch = load_file(name, "");
    ASSERT_FALSE(batch) << name;
    EXPECT_EQ(batch.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(test::contains(batch.error().message, name));
  }
  const auto blank = load_file("blank.jsonl", "\n \n");
  ASSERT_FALSE(blank);
  EXPECT_EQ(blank.error().code, ErrorCode::bad_input);
  const auto invalid = load_file("latin1.txt", "caf\xe9");
  ASSERT_FALSE(invalid);
  EXPECT_EQ(invalid.error().code, ErrorCode::bad_input);
  EXPECT_TRUE(test::contains(invalid.error().message, "latin1.txt"));
  for (const char* name : {"none.txt", "none.jsonl"}) {
    const Source source{.parts = {Part{(folder_.path() / name).string()}}};
    const auto missing = load(source, model_, tokenizer("byte_bpe"), nullptr);
    ASSERT_FALSE(missing) << name;
    EXPECT_EQ(missing.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(test::contains(missing.error().message, name));
  }
}

TEST_F(Calibrate, ATokenOutsideTheVocabularyIsBadInput) {
  const auto small = test::golden_model("llama");
  const Source source{.parts = {Part{file("a.txt", counting(50)).string()}}, .tokens = 16};
  const auto batch = load(source, small, tokenizer("byte_bpe"), nullptr);
  ASSERT_FALSE(batch);
  EXPECT_EQ(batch.error().code, ErrorCode::bad_input);
  EXPECT_TRUE(test::contains(batch.error().message, "a.txt"));
  EXPECT_TRUE(test::contains(batch.error().message, "64"));
}

TEST_F(Calibrate, AbsurdSizesAreUsageErrors) {
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  const Source bad[] = {{.sequences = 0}, {.sequences = -1}, {.sequences = most}, {.tokens = 1},
                        {.tokens = -512}, {.tokens = 1025},  {.tokens = most}};
  for (Source source : bad) {
    for (const std::string& name : {std::string("self"), file("a.txt", counting(9)).string()}) {
      source.parts = {Part{name}};
      const auto batch = load(source, model_, tokenizer("byte_bpe"), nullptr);
      ASSERT_FALSE(batch) << source.sequences << " × " << source.tokens;
      EXPECT_EQ(batch.error().code, ErrorCode::usage);
    }
  }
}

TEST_F(Calibrate, MoreTokensThanMemoryHoldsIsAUsageError) {
  auto content = test::ModelFolder::golden("llama");
  content.config["max_position_embeddings"] = 1 << 20;
  const auto model = test::open_model(content, folder_.path() / "long");
  const auto batch = load({.sequences = 1 << 20, .tokens = 1 << 20}, model, tokenizer("byte_bpe"), nullptr);
  ASSERT_FALSE(batch);
  EXPECT_EQ(batch.error().code, ErrorCode::usage);
}

TEST_F(Calibrate, SelfSamplingIsDeterministicAndInRange) {
  const auto sampled = [&](std::uint64_t seed) {
    return load({.sequences = 70, .tokens = 9, .seed = seed}, model_, tokenizer("byte_bpe"), nullptr).value();
  };
  const TokenBatch batch = sampled(1);
  EXPECT_EQ(batch.sequences, 70);
  EXPECT_EQ(batch.tokens, 9);
  ASSERT_EQ(batch.ids.size(), 70u * 9);
  for (const std::int32_t id : batch.ids) {
    EXPECT_GE(id, 0);
    EXPECT_LT(id, test::kTinyVocabulary);
  }
  EXPECT_EQ(sampled(1).ids, batch.ids);
  EXPECT_NE(sampled(2).ids, batch.ids);
  std::set<std::int32_t> starts;
  for (std::int64_t row = 0; row < 70; ++row) starts.insert(batch.row(row)[0]);
  EXPECT_GT(starts.size(), 40u);  // byte_bpe has no BOS: random starts
}

TEST_F(Calibrate, SelfSamplingStartsAtBos) {
  const auto batch = load({.sequences = 5, .tokens = 4}, model_, tokenizer("spm_bpe"), nullptr).value();
  for (std::int64_t row = 0; row < 5; ++row) EXPECT_EQ(batch.row(row)[0], 1);
}

TEST_F(Calibrate, ABosOutsideTheVocabularyIsBadInput) {
  const auto folder = folder_.path() / "far_bos";
  test::copy_tokenizer("byte_bpe", folder);
  test::write_text(folder / "tokenizer_config.json", R"({"bos_token": "<|im_start|>"})");
  const auto batch = load({.sequences = 2, .tokens = 4}, test::golden_model("llama"),
                          io::Tokenizer::open(folder).value(), nullptr);
  ASSERT_FALSE(batch);
  EXPECT_EQ(batch.error().code, ErrorCode::bad_input);
  EXPECT_TRUE(test::contains(batch.error().message, "621"));
}

/// Sampled tokens follow the softmax of a full pass without a cache: the second token (from BOS alone), and
/// the third given the likeliest second.
TEST_F(Calibrate, SelfSamplingFollowsTheModel) {
  const auto model = test::golden_model("llama");
  const auto batch =
      load({.sequences = 12000, .tokens = 3, .seed = test::seed()}, model, tokenizer("spm_bpe"), nullptr)
          .value();
  std::vector<int> second(64, 0);
  for (std::int64_t row = 0; row < batch.sequences; ++row)
    ++second[static_cast<std::size_t>(batch.row(row)[1])];
  const auto probabilities = [&](const Tokens& prefix) {
    test::Doubles p = test::log_softmax(test::logits_of(model, prefix).back());
    for (double& x : p) x = std::exp(x);
    return p;
  };
  EXPECT_LT(test::chi_square_deviation(second, probabilities({1})), 7);
  const auto likeliest =
      static_cast<std::int32_t>(std::max_element(second.begin(), second.end()) - second.begin());
  std::vector<int> third(64, 0);
  for (std::int64_t row = 0; row < batch.sequences; ++row) {
    if (batch.row(row)[1] == likeliest) ++third[static_cast<std::size_t>(batch.row(row)[2])];
  }
  EXPECT_LT(test::chi_square_deviation(third, probabilities({1, likeliest})), 7);
}

std::string parquet_golden(std::string_view name) {
  return (std::filesystem::path(OPTIQ_TEST_DATA) / "goldens" / "parquet" / name).string();
}

/// The same documents as JSONL give the same sequences.
TEST_F(Calibrate, ParquetGivesWhatJsonLinesGive) {
  const Json expected = read_json_file(parquet_golden("documents.json")).value();
  for (const char* name : {"text_plain", "text_zstd_v2", "messages_snappy"}) {
    SCOPED_TRACE(name);
    std::string lines;
    for (const Json& document : expected[name]) {
      if (!document.is_null()) lines += document.dump() + "\n";
    }
    const io::Tokenizer t = tokenizer("byte_bpe");
    const Source parquet{
        .parts = {Part{parquet_golden(std::string(name) + ".parquet")}}, .sequences = 9, .tokens = 8};
    Source jsonl = parquet;
    jsonl.parts = {Part{file("same.jsonl", lines).string()}};
    EXPECT_EQ(load(parquet, model_, t, nullptr).value().ids, load(jsonl, model_, t, nullptr).value().ids);
  }
}

TEST_F(Calibrate, HeldOutWindowsAreNoneOfThoseThatWereTaken) {
  const std::string text = counting(400);
  const Tokens stream = tokenizer("byte_bpe").encode(text, false).value();
  const Source source{
      .parts = {Part{file("a.txt", text).string()}}, .sequences = 20, .tokens = 16, .seed = 5};
  const auto all = static_cast<std::int64_t>(stream.size() / 16);
  ASSERT_GT(all, 40);
  const auto taken = places(load(source, model_, tokenizer("byte_bpe"), nullptr).value(), stream);
  const auto rest =
      places(load(held_out(source, all), model_, tokenizer("byte_bpe"), nullptr).value(), stream);
  EXPECT_EQ(taken.size() + rest.size(), static_cast<std::size_t>(all));
  std::set<std::size_t> both(taken.begin(), taken.end());
  both.insert(rest.begin(), rest.end());
  EXPECT_EQ(both.size(), static_cast<std::size_t>(all));
  Source greedy = source;
  greedy.sequences = all;
  const auto none = load(held_out(greedy, 1), model_, tokenizer("byte_bpe"), nullptr);
  ASSERT_FALSE(none);
  EXPECT_TRUE(test::contains(none.error().message, "a.txt")) << none.error().message;
}

TEST_F(Calibrate, TextOfAPartOfTheSourceIsHeldOutToo) {
  const std::string text = counting(400);
  const Tokens stream = tokenizer("byte_bpe").encode(text, false).value();
  const std::string name = file("a.txt", text).string();
  const Source mixture{.parts = {Part{name, 3}, Part{"self", 1}}, .sequences = 8, .tokens = 16, .seed = 5};
  Source own = mixture;
  own.parts = {Part{name}};
  own.sequences = 6;  // its share
  const auto taken = places(load(own, model_, tokenizer("byte_bpe"), nullptr).value(), stream);
  const Source other = held_out_of(name, mixture, 9);
  const auto rest = places(load(other, model_, tokenizer("byte_bpe"), nullptr).value(), stream);
  EXPECT_EQ(rest.size(), 9u);
  for (const std::size_t place : rest) EXPECT_EQ(std::ranges::find(taken, place), taken.end());
  EXPECT_EQ(held_out_of("b.txt", mixture, 9).skip, 0);
}

TEST(Split, GivesRowsByTurns) {
  const TokenBatch batch{3, 2, {1, 2, 3, 4, 5, 6}};
  const auto halves = split(batch).value();
  EXPECT_EQ(std::get<0>(halves).ids, (std::vector<std::int32_t>{1, 2, 5, 6}));
  EXPECT_EQ(std::get<1>(halves).ids, (std::vector<std::int32_t>{3, 4}));
  EXPECT_EQ(std::get<1>(halves).sequences, 1);
  EXPECT_FALSE(split(TokenBatch{1, 2, {1, 2}}));
}

TEST_F(Calibrate, HeldOutTextOfParquetIsChosenFromTheSameTokens) {
  std::set<Tokens> seen;
  const Source source{.parts = {Part{parquet_golden("text_plain.parquet")}}, .sequences = 2, .tokens = 8};
  const auto rows_of = [&](const TokenBatch& batch) {
    for (std::int64_t row = 0; row < batch.sequences; ++row)
      seen.insert(Tokens(batch.row(row).begin(), batch.row(row).end()));
    return static_cast<std::size_t>(batch.sequences);
  };
  const auto taken = rows_of(load(source, model_, tokenizer("byte_bpe"), nullptr).value());
  const auto rest = rows_of(load(held_out(source, 3), model_, tokenizer("byte_bpe"), nullptr).value());
  EXPECT_EQ(taken + rest, 5u);
  EXPECT_EQ(seen.size(), 5u);
}

/// Every sequence of a mixture is one that its part alone gives, in its order, at its place.
TEST_F(Calibrate, AMixtureInterleavesWhatItsPartsGive) {
  const Part text{file("a.txt", counting(300)).string(), 2};
  const Part other{file("b.jsonl", "{\"text\": \"" + counting(200) + "\"}").string(), 1};
  const Source mixture{.parts = {Part{"self", 1}, text, other}, .sequences = 9, .tokens = 12, .seed = 4};
  const io::Tokenizer t = tokenizer("byte_bpe");
  const auto counts = share_out(mixture.parts, 9).value();
  std::vector<TokenBatch> alone;
  for (std::size_t i = 0; i < 3; ++i) {
    Source single = mixture;
    single.parts = {Part{mixture.parts[i].name}};
    single.sequences = counts[i];
    alone.push_back(load(single, model_, t, nullptr).value());
  }
  const TokenBatch batch = load(mixture, model_, t, nullptr).value();
  EXPECT_EQ(batch.ids, load(mixture, model_, t, nullptr).value().ids);
  ASSERT_EQ(batch.sequences, 9);
  const auto order = interleaved_parts(counts);
  std::vector<std::int64_t> next(3, 0);
  for (std::int64_t row = 0; row < 9; ++row) {
    const auto part = order[static_cast<std::size_t>(row)];
    EXPECT_TRUE(std::ranges::equal(batch.row(row), alone[part].row(next[part]++))) << row;
  }
}

TEST_F(Calibrate, APartOfAMixtureThatIsTooShortIsBadInput) {
  const std::string small = file("short.txt", counting(20)).string();
  const Source mixture{.parts = {Part{"self"}, Part{small}}, .sequences = 100, .tokens = 16};
  const auto batch = load(mixture, model_, tokenizer("byte_bpe"), nullptr);
  ASSERT_FALSE(batch);
  EXPECT_EQ(batch.error().code, ErrorCode::bad_input);
  EXPECT_TRUE(test::contains(batch.error().message, small + ": expected 50 sequences of 16"))
      << batch.error().message;
}

TEST_F(Calibrate, TokenizeFileGivesTheWholeText) {
  const io::Tokenizer t = tokenizer("spm_bpe");
  const Tokens tokens = tokenize_file(file("a.txt", "hello\nworld\n"), t).value();
  EXPECT_EQ(tokens, t.encode("hello\nworld\n", false).value());
}

TEST_F(Calibrate, ProgressEndsAtTheTotal) {
  double last = 0, total = -1;
  const Progress progress = [&](std::string_view, double done, double all) {
    EXPECT_GE(done, last);
    last = done;
    total = all;
  };
  ASSERT_TRUE(load({.sequences = 70, .tokens = 3}, model_, tokenizer("byte_bpe"), progress));
  EXPECT_EQ(last, total);
  EXPECT_EQ(total, 210);
}

}  // namespace
}  // namespace optiq::calibrate
