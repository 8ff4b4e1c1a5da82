#include "optiq/evaluate/choices.h"

#include <gtest/gtest.h>

#include "support/contains.h"
#include "support/seed.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace optiq::evaluate {
namespace {

using test::Doubles;

/// f32 logits and log-probabilities of a handful of tokens.
constexpr double kTolerance = 2e-4;

class Choices : public testing::Test {
 protected:
  Choices()
      : random_(test::seed()),
        tokenizer_(test::tiny_tokenizer("byte_bpe")),
        model_(open("m")),
        other_(open("o")) {}

  model::Model open(const std::string& name) {
    test::copy_tokenizer("byte_bpe", folder_.path() / name);
    return test::open_model(
        test::resized(test::ModelFolder::golden("llama"), random_, test::kTinyVocabulary, kPositions),
        folder_.path() / name);
  }

  std::string words(std::size_t count) {
    std::string text;
    for (std::size_t i = 0; i < count; ++i)
      text += fmt::format("{}w{}", i == 0 ? "" : " ", random_.below(1000));
    return text;
  }

  /// `subjects` beginnings that questions share, choices of one token (as MMLU's) or of several.
  Task task(std::size_t subjects, std::size_t questions, bool letters) {
    Task task{"t", true, {}};
    for (std::size_t s = 0; s < subjects; ++s) {
      const std::string shared = words(12);
      for (std::size_t q = 0; q < questions; ++q) {
        Question question{fmt::format("{}/{}", s, q),
                          letters ? fmt::format("s{}", s) : "",
                          shared + " " + words(1 + q % 5),
                          {},
                          {},
                          random_.below(4)};
        for (std::size_t c = 0; c < 4; ++c) {
          const std::string choice = letters ? std::string(1, static_cast<char>('A' + c)) : words(1 + c);
          question.choices.push_back(" " + choice);
          question.lengths.push_back(choice.size());
        }
        task.questions.push_back(question);
      }
    }
    return task;
  }

  /// log p of the last tokens of context + choice, from the logits of the whole, no cache, no batch, in
  /// double.
  double expected(const model::Model& model, const Question& question, std::size_t choice) {
    auto front = tokenizer_.encode(question.context, true).value();
    const auto whole = tokenizer_.encode(question.context + question.choices[choice], true).value();
    const std::size_t scored = whole.size() - front.size();
    front.insert(front.end(), whole.begin() + static_cast<std::ptrdiff_t>(front.size()), whole.end());
    if (front.size() > kPositions + 1) front.erase(front.begin(), front.end() - kPositions - 1);
    const auto logits = test::logits_of(model, {front.begin(), front.end() - 1});
    double sum = 0;
    for (std::size_t i = front.size() - scored; i < front.size(); ++i)
      sum += test::log_softmax(logits[i - 1])[static_cast<std::size_t>(front[i])];
    return sum;
  }

  void expect_right(const Task& task, const std::vector<Answer>& answers, const model::Model& model) {
    ASSERT_EQ(answers.size(), task.questions.size());
    for (std::size_t i = 0; i < answers.size(); ++i) {
      for (std::size_t c = 0; c < 4; ++c) {
        const double value = expected(model, task.questions[i], c);
        ASSERT_NEAR(answers[i].log_likelihoods[c], value, kTolerance * std::max(1.0, std::abs(value))) << i;
      }
    }
  }

  static constexpr std::ptrdiff_t kPositions = 256;
  test::TemporaryFolder folder_;
  Random random_;
  io::Tokenizer tokenizer_;
  model::Model model_;
  model::Model other_;
};

TEST_F(Choices, SharedBeginningsAndBatchesChangeNothing) {
  const std::vector<Task> tasks{task(2, 30, true), task(3, 2, false)};
  const auto answers = answer_tasks(model_, &other_, tokenizer_, tasks, {}, nullptr).value();
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    expect_right(tasks[t], answers[t].model, model_);
    expect_right(tasks[t], answers[t].reference, other_);
  }
}

TEST_F(Choices, ATextBeyondThePositionsLosesItsBeginning) {
  Task long_task = task(1, 3, true);
  long_task.questions[1].context = words(300) + long_task.questions[1].context;
  expect_right(
      long_task,
      answer_tasks(model_, nullptr, tokenizer_, std::span(&long_task, 1), {}, nullptr).value()[0].model,
      model_);
}

TEST_F(Choices, SpaceBehindTheContextBelongsToTheChoice) {
  Task spaced = task(1, 1, false), plain = spaced;
  spaced.questions[0].context += " ";
  for (auto& choice : spaced.questions[0].choices) choice.erase(0, 1);
  const auto likelihoods = [&](const Task& task) {
    return answer_tasks(model_, nullptr, tokenizer_, std::span(&task, 1), {}, nullptr)
        .value()[0]
        .model[0]
        .log_likelihoods;
  };
  EXPECT_EQ(likelihoods(spaced), likelihoods(plain));
}

TEST_F(Choices, AKilledRunGoesOnWithTheSameResult) {
  const Task one = task(3, 40, true);
  const auto path = folder_.path() / "work.journal";
  double first = -1;
  const Progress progress = [&](std::string_view, double done, double) { first = first < 0 ? done : first; };
  const auto run = [&] {
    first = -1;
    return answer_tasks(model_, &other_, tokenizer_, std::span(&one, 1), {.journal = path}, progress)
        .value()[0];
  };
  const TaskAnswers whole = run();
  EXPECT_EQ(first, 0);
  const auto bytes = std::filesystem::file_size(path);
  run();
  EXPECT_EQ(first, -1) << "nothing was left to do";
  for (const auto cut : {bytes - 1, bytes / 2, bytes / 3}) {
    std::filesystem::resize_file(path, cut);
    const TaskAnswers again = run();
    EXPECT_GT(first, 0) << "finished batches are not computed again";
    for (std::size_t i = 0; i < whole.model.size(); ++i) {
      ASSERT_EQ(again.model[i].log_likelihoods, whole.model[i].log_likelihoods);
      ASSERT_EQ(again.reference[i].log_likelihoods, whole.reference[i].log_likelihoods);
    }
  }
  Task changed = one;
  changed.questions[5].context += " more";
  first = -1;
  ASSERT_TRUE(answer_tasks(model_, &other_, tokenizer_, std::span(&changed, 1), {.journal = path}, progress));
  EXPECT_EQ(first, 0) << "other questions begin anew";
}

TEST_F(Choices, BadTokensAreBadInput) {
  Task bad = task(1, 1, true);
  bad.questions[0].choices[2] = "";
  const auto answers = answer_tasks(model_, nullptr, tokenizer_, std::span(&bad, 1), {}, nullptr);
  ASSERT_FALSE(answers);
  EXPECT_EQ(answers.error().code, ErrorCode::bad_input);
  EXPECT_TRUE(test::contains(answers.error().message, "0/0"));
}

TEST(AccuracyOf, DifferencesArePaired) {
  Task task{"t", true, std::vector<Question>(4)};
  TaskAnswers answers{std::vector<Answer>(4), std::vector<Answer>(4)};
  const std::size_t model[] = {0, 0, 1, 2}, reference[] = {0, 1, 1, 3};
  for (std::size_t i = 0; i < 4; ++i) {
    answers.model[i].choice = model[i];
    answers.reference[i].choice = reference[i];
    answers.model[i].normalised_choice = 1;
    answers.reference[i].normalised_choice = 0;
  }
  const auto all = [](const Question&) { return true; };
  const Accuracy raw = accuracy_of(task, answers, false, all);  // right: 1100 and 1000
  EXPECT_EQ(raw.model.mean, 0.5);
  EXPECT_EQ(raw.reference.mean, 0.25);
  EXPECT_EQ(raw.difference.mean, 0.25);
  EXPECT_DOUBLE_EQ(raw.difference.standard_error, 0.25);  // of 0 1 0 0
  EXPECT_EQ(raw.same_choice.mean, 0.5);
  const Accuracy normalised = accuracy_of(task, answers, true, all);
  EXPECT_EQ(normalised.model.mean, 0);
  EXPECT_EQ(normalised.difference.mean, -1);
}

}  // namespace
}  // namespace optiq::evaluate
