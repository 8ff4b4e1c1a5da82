#include "rows.h"

#include <algorithm>
#include <span>

#include "text.h"

namespace optiq::evaluate {
namespace {

using Tokens = std::vector<std::int32_t>;

/// Padded tokens of a batch; more questions do not make products faster on a CPU.
constexpr std::size_t kBatchTokens = 512;

/// Of every task that there is.
constexpr std::size_t kChoices = 4;

struct EncodedQuestion {
  std::vector<Row> rows;
  std::size_t longest = 0;
  bool cut = false;  ///< it lost its beginning, so that it shares none
};

Status check_tokens(const Tokens& tokens, const model::ModelConfig& config, const std::string& id) {
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= config.vocabulary) {
      return fail(ErrorCode::bad_input, "{}: the tokenizer gave token {}, but the model's vocabulary has {}",
                  id, token, config.vocabulary);
    }
  }
  return {};
}

/// Choices that need the same sequence (all of one token do) share a row.
void add_target(std::vector<Row>& rows, Tokens tokens, Target target) {
  const auto same = std::ranges::find(rows, tokens, &Row::tokens);
  if (same != rows.end()) return same->targets.push_back(std::move(target));
  rows.push_back({std::move(tokens), {std::move(target)}});
}

/// The context is encoded alone and together with each choice; what the latter is longer by is the choice.
/// White space at the context's end goes to the choice.
Result<EncodedQuestion> encode(const Question& question, const io::Tokenizer& tokenizer,
                               const model::ModelConfig& config) {
  EncodedQuestion encoded;
  const std::string context =
      question.context.substr(0, question.context.size() - trailing_space(question.context));
  OPTIQ_TRY(const Tokens front, tokenizer.encode(context, true));
  OPTIQ_CHECK(check_tokens(front, config, question.id));
  for (std::size_t i = 0; i < question.choices.size(); ++i) {
    OPTIQ_TRY(const Tokens whole, tokenizer.encode(question.context + question.choices[i], true));
    OPTIQ_CHECK(check_tokens(whole, config, question.id));
    const std::size_t most =
        config.max_positions > 0 ? static_cast<std::size_t>(config.max_positions) : whole.size();
    if (front.empty() || whole.size() <= front.size() || whole.size() - front.size() > most) {
      return fail(ErrorCode::bad_input,
                  "{}: expected a choice of 1 to {} tokens behind a context, got {} of {}", question.id, most,
                  whole.size(), front.size());
    }
    Target target{i, 0, Tokens(whole.begin() + static_cast<std::ptrdiff_t>(front.size()), whole.end())};
    Tokens tokens = front;
    tokens.insert(tokens.end(), target.labels.begin(), target.labels.end() - 1);
    if (tokens.size() > most) {
      tokens.erase(tokens.begin(), tokens.end() - static_cast<std::ptrdiff_t>(most));
      encoded.cut = true;
    }
    target.first = tokens.size() - target.labels.size();
    encoded.longest = std::max(encoded.longest, tokens.size());
    add_target(encoded.rows, std::move(tokens), std::move(target));
  }
  return encoded;
}

/// Rotations of longrope change with the length of the pass.
bool is_beyond(const EncodedQuestion& question, const model::ModelConfig& config) {
  return !config.rope.long_inverse_frequencies.empty() &&
         static_cast<std::int64_t>(question.longest) > config.rope.original_positions;
}

/// The longest common beginning that leaves every row the position of its first target.
std::size_t shared_tokens(std::span<const EncodedQuestion> questions) {
  const Tokens& one = questions.front().rows.front().tokens;
  std::size_t shared = one.size();
  for (const EncodedQuestion& question : questions) {
    for (const Row& row : question.rows) {
      const auto [mine, ends] = std::ranges::mismatch(row.tokens, one);
      shared = std::min(shared, static_cast<std::size_t>(mine - row.tokens.begin()));
      for (const Target& target : row.targets) shared = std::min(shared, target.first);
    }
  }
  return shared;
}

void append_question(Batch& batch, EncodedQuestion question, std::size_t choices) {
  for (Row& row : question.rows) {
    for (Target& target : row.targets) target.choice += batch.choices;
    batch.rows.push_back(std::move(row));
  }
  ++batch.questions;
  batch.choices += choices;
}

/// Cuts questions with one beginning into batches.
void append_batches(std::vector<Batch>& batches, std::span<EncodedQuestion> questions, std::size_t choices,
                    const model::ModelConfig& config) {
  const bool alone = is_beyond(questions.front(), config);
  const std::size_t shared = alone ? 0 : shared_tokens(questions);
  std::size_t rows = 0, longest = 0;
  for (std::size_t i = 0; i < questions.size(); ++i) {
    rows += questions[i].rows.size();
    longest = std::max(longest, questions[i].longest - shared);
    if (i == 0 || rows * longest > kBatchTokens) {
      batches.push_back({0, 0, shared, alone, {}});
      rows = questions[i].rows.size();
      longest = questions[i].longest - shared;
    }
    append_question(batches.back(), std::move(questions[i]), choices);
  }
}

}  // namespace

std::size_t Batch::tokens() const {
  std::size_t longest = 0;
  for (const Row& row : rows) longest = std::max(longest, row.tokens.size() - shared);
  return longest * rows.size();
}

Result<std::vector<Batch>> make_batches(const Task& task, const io::Tokenizer& tokenizer,
                                        const model::ModelConfig& config) {
  std::vector<Batch> batches;
  std::vector<EncodedQuestion> group;
  const std::string* subject = nullptr;
  const auto finish_group = [&] {
    if (!group.empty()) append_batches(batches, group, kChoices, config);
    group.clear();
  };
  for (const Question& question : task.questions) {
    OPTIQ_TRY(EncodedQuestion encoded, encode(question, tokenizer, config));
    const bool alone = encoded.cut || question.subject.empty() || is_beyond(encoded, config);
    if (alone || subject == nullptr || *subject != question.subject) finish_group();
    group.push_back(std::move(encoded));
    subject = alone ? nullptr : &question.subject;
  }
  finish_group();
  return batches;
}

}  // namespace optiq::evaluate
