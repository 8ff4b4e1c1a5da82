#include "optiq/runtime/generate.h"

#include <gtest/gtest.h>

#include "support/contains.h"
#include "support/seed.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace optiq::runtime {
namespace {

using Tokens = std::vector<std::int32_t>;

constexpr std::int32_t kEnd = 622;  ///< <|im_end|> of byte_bpe
constexpr int kPositions = 700;

class SessionTest : public testing::Test {
 protected:
  SessionTest() : random_(test::seed()), model_(make_model()) {}

  model::Model make_model() {
    test::ModelFolder content =
        test::resized(test::ModelFolder::golden("llama"), random_, test::kTinyVocabulary, kPositions);
    // The end token's logit is 0: never the likeliest of 640.
    const test::mx::array& head = content.at("lm_head.weight");
    const test::mx::array rows = test::mx::reshape(test::mx::arange(test::kTinyVocabulary), {-1, 1});
    content.set("lm_head.weight", test::mx::where(test::mx::equal(rows, test::mx::array(kEnd)),
                                                  test::mx::zeros_like(head), head));
    test::copy_tokenizer("byte_bpe", folder_.path());
    return test::open_model(content, folder_.path());
  }

  Session session() { return Session(model_, io::Tokenizer::open(folder_.path()).value()); }

  Tokens prompt(std::size_t length) {
    Tokens tokens(length);
    for (auto& token : tokens) token = static_cast<std::int32_t>(random_.below(600));
    return tokens;
  }

  /// Every token is the likeliest (but for rounding) of a full pass over all before it, without a cache.
  void expect_greedy(Tokens before, const Tokens& generated) {
    for (const std::int32_t token : generated) {
      const test::Doubles logits = test::logits_of(model_, before).back();
      EXPECT_GE(logits[static_cast<std::size_t>(token)],
                *std::max_element(logits.begin(), logits.end()) - 1e-3 * test::largest(logits))
          << "after " << before.size() << " tokens";
      before.push_back(token);
    }
  }

  test::TemporaryFolder folder_;
  Random random_;
  model::Model model_;
};

Tokens joined(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST_F(SessionTest, GreedyGenerationIsTheArgmaxOfAFullPass) {
  Session chat = session();
  const Tokens first = prompt(7);
  const Generation generation = chat.generate(first, {.max_tokens = 12}, nullptr).value();
  EXPECT_EQ(generation.tokens.size(), 12u);
  EXPECT_EQ(generation.reason, StopReason::max_tokens);
  EXPECT_EQ(generation.prompt_tokens, 7);
  EXPECT_GT(generation.prefill_tokens_per_second(), 0);
  EXPECT_GT(generation.decode_tokens_per_second(), 0);
  expect_greedy(first, generation.tokens);
  EXPECT_EQ(chat.history(), joined(first, generation.tokens));
}

TEST_F(SessionTest, ALaterPromptContinuesTheCache) {
  Session chat = session();
  const Tokens first = prompt(5), second = prompt(4);
  const Tokens answer = chat.generate(first, {.max_tokens = 6}, nullptr).value().tokens;
  const Generation later = chat.generate(second, {.max_tokens = 6}, nullptr).value();
  EXPECT_EQ(later.prompt_tokens, 4);
  expect_greedy(joined(joined(first, answer), second), later.tokens);
  chat.reset();
  EXPECT_TRUE(chat.history().empty());
  EXPECT_EQ(chat.generate(first, {.max_tokens = 6}, nullptr).value().tokens, answer);
}

TEST_F(SessionTest, APromptCacheGivesTheSameAnswer) {
  const std::filesystem::path file = folder_.path() / "prompt";
  const Tokens start = prompt(300);
  for (const auto storage : {kernels::cpu::CacheStorage::f16, kernels::cpu::CacheStorage::packed4}) {
    const auto open = [&] {
      return Session(model_, io::Tokenizer::open(folder_.path()).value(), {.cache = storage});
    };
    const GenerationOptions options{.max_tokens = 20, .sampling = {.temperature = 1, .seed = 3}};
    Session first = open();
    ASSERT_TRUE(first.generate(start, {.max_tokens = 0}, nullptr));
    ASSERT_TRUE(first.save(file));
    const Tokens answer = first.go_on(options, nullptr).value().tokens;
    EXPECT_EQ(open().generate(start, options, nullptr).value().tokens, answer);
    Session second = open();
    ASSERT_TRUE(second.restore(file));
    second.keep_prefix(start);
    EXPECT_EQ(second.history(), start);
    EXPECT_EQ(second.go_on(options, nullptr).value().tokens, answer);
    // A longer prompt: as if fed in two pieces.
    const Tokens more = prompt(30);
    Session third = open(), whole = open();
    ASSERT_TRUE(third.restore(file));
    third.keep_prefix(joined(start, more));
    EXPECT_EQ(third.history(), start);
    ASSERT_TRUE(whole.generate(start, {.max_tokens = 0}, nullptr));
    EXPECT_EQ(third.generate(more, options, nullptr).value().tokens,
              whole.generate(more, options, nullptr).value().tokens);
  }
  Session chat = session();
  EXPECT_EQ(chat.restore(folder_.path() / "missing").error().code, ErrorCode::bad_input);
}

TEST_F(SessionTest, KeepsWhatIsAPrefix) {
  Session chat = session();
  const Tokens start = prompt(40);
  ASSERT_TRUE(chat.generate(start, {.max_tokens = 0}, nullptr));
  const Tokens shorter(start.begin(), start.begin() + 25);
  chat.keep_prefix(shorter);  // the logits behind it are gone: its last token is fed again
  EXPECT_EQ(chat.history(), Tokens(start.begin(), start.begin() + 24));
  const Tokens last{shorter.back()};
  expect_greedy(shorter, chat.generate(last, {.max_tokens = 5}, nullptr).value().tokens);
  Tokens other = shorter;
  other[10] = (other[10] + 1) % 600;
  chat.keep_prefix(other);
  EXPECT_EQ(chat.history(), Tokens(start.begin(), start.begin() + 10));
  EXPECT_EQ(chat.go_on({}, nullptr).error().code, ErrorCode::bad_input);
  expect_greedy(
      other,
      chat.generate(Tokens(other.begin() + 10, other.end()), {.max_tokens = 5}, nullptr).value().tokens);
  chat.keep_prefix({});
  EXPECT_TRUE(chat.history().empty());
}

TEST_F(SessionTest, ALongPromptIsFedInPieces) {
  const Tokens longer = prompt(600);
  expect_greedy(longer, session().generate(longer, {.max_tokens = 2}, nullptr).value().tokens);
}

TEST_F(SessionTest, AnEndTokenStopsAndIsLeftOut) {
  const Tokens start = prompt(6);
  const Tokens free = session().generate(start, {.max_tokens = 8}, nullptr).value().tokens;
  const auto end = free[4];
  const auto before = std::find(free.begin(), free.end(), end) - free.begin();
  test::write_text(folder_.path() / "generation_config.json", fmt::format(R"({{"eos_token_id": {}}})", end));
  Session chat = session();
  const Generation generation = chat.generate(start, {.max_tokens = 8}, nullptr).value();
  EXPECT_EQ(generation.reason, StopReason::end_of_sequence);
  EXPECT_EQ(generation.tokens, Tokens(free.begin(), free.begin() + before));
  EXPECT_EQ(chat.history(), joined(start, generation.tokens));
}

TEST_F(SessionTest, AFullContextStops) {
  Session chat = session();
  const Generation generation = chat.generate(prompt(kPositions - 9), {.max_tokens = 50}, nullptr).value();
  EXPECT_EQ(generation.reason, StopReason::context_full);
  EXPECT_EQ(generation.tokens.size(), 9u);
  const auto full = chat.generate(prompt(1), {}, nullptr);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, ErrorCode::bad_input);
  EXPECT_TRUE(test::contains(full.error().message, std::to_string(kPositions)));
}

TEST_F(SessionTest, TheListenerCanCancel) {
  int calls = 0;
  const OnText stop = [&](std::string_view piece) {
    EXPECT_FALSE(piece.empty());
    return ++calls < 3;
  };
  const Generation generation = session().generate(prompt(6), {.max_tokens = 40}, stop).value();
  EXPECT_EQ(generation.reason, StopReason::cancelled);
  EXPECT_EQ(calls, 3);
  EXPECT_LT(generation.tokens.size(), 40u);
}

TEST_F(SessionTest, TheTextOfAllPiecesIsThatOfAllTokens) {
  std::string text;
  const OnText collect = [&](std::string_view piece) {
    text += piece;
    return true;
  };
  Session chat = session();
  const auto tokens =
      chat.generate(prompt(6), {.max_tokens = 60, .sampling = {.temperature = 2, .seed = 4}}, collect)
          .value()
          .tokens;
  EXPECT_FALSE(text.empty());
  EXPECT_EQ(text, chat.tokenizer().decode(tokens, true).value());
}

TEST_F(SessionTest, ASeedRepeatsItsText) {
  const Tokens start = prompt(6);
  const auto sampled = [&](std::uint64_t seed) {
    const GenerationOptions options{.max_tokens = 30, .sampling = {.temperature = 1, .seed = seed}};
    return session().generate(start, options, nullptr).value().tokens;
  };
  EXPECT_EQ(sampled(1), sampled(1));
  EXPECT_NE(sampled(1), sampled(2));
}

TEST_F(SessionTest, NoTokensWantedOnlyFeedsThePrompt) {
  Session chat = session();
  const Tokens start = prompt(6);
  const Generation generation = chat.generate(start, {.max_tokens = 0}, nullptr).value();
  EXPECT_TRUE(generation.tokens.empty());
  EXPECT_EQ(generation.reason, StopReason::max_tokens);
  EXPECT_EQ(chat.history(), start);
}

TEST_F(SessionTest, BadPromptsLeaveTheSessionAsItWas) {
  Session chat = session();
  const Tokens start = prompt(6);
  ASSERT_TRUE(chat.generate(start, {.max_tokens = 0}, nullptr));
  const Tokens bad[] = {{}, {3, -1}, {3, test::kTinyVocabulary}, prompt(kPositions - 6)};
  for (const Tokens& tokens : bad) {
    const auto generation = chat.generate(tokens, {}, nullptr);
    ASSERT_FALSE(generation);
    EXPECT_EQ(generation.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(test::contains(generation.error().message, "prompt"));
    EXPECT_EQ(chat.history(), start);
  }
  const auto sampling = chat.generate(start, {.sampling = {.top_p = 2}}, nullptr);
  ASSERT_FALSE(sampling);
  EXPECT_EQ(sampling.error().code, ErrorCode::usage);
  EXPECT_EQ(chat.history(), start);
}

TEST(StopReasonName, IsTheEnumeratorsName) {
  EXPECT_EQ(stop_reason_name(StopReason::end_of_sequence), "end_of_sequence");
  EXPECT_EQ(stop_reason_name(StopReason::max_tokens), "max_tokens");
  EXPECT_EQ(stop_reason_name(StopReason::context_full), "context_full");
  EXPECT_EQ(stop_reason_name(StopReason::cancelled), "cancelled");
}

}  // namespace
}  // namespace optiq::runtime
