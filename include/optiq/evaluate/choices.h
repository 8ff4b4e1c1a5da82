// Answers to multiple-choice questions by log-likelihood, and accuracies with standard errors.
#pragma once

#include <filesystem>
#include <functional>
#include <span>

#include "optiq/base/progress.h"
#include "optiq/base/statistics.h"
#include "optiq/evaluate/task.h"
#include "optiq/io/tokenizer.h"
#include "optiq/model/model.h"
#include "optiq/workers/workers.h"

namespace optiq::evaluate {

struct ChoiceOptions {
  kernels::Compute compute = kernels::Compute::f32;  ///< of the model; a reference never computes in int8
  /// Where finished batches are kept, so that the same call goes on after a kill; empty: nowhere. A journal
  /// of other work is begun anew. It stays when all is done.
  std::filesystem::path journal;
  Workers workers =
      {};  ///< who share the questions; every one of them makes the same call, and gets the same
};

/// log p(choice | context) of each choice, in nats, and the likeliest one; `normalised`: a character.
struct Answer {
  std::vector<double> log_likelihoods;
  std::size_t choice = 0;
  std::size_t normalised_choice = 0;
};

struct TaskAnswers {
  std::vector<Answer> model;      ///< one a question
  std::vector<Answer> reference;  ///< empty without one
};

/// Answers all questions of `tasks`, in batches that share the computation of what their texts have in
/// common. Context and choice are encoded as lm-evaluation-harness does; a text longer than the model's
/// positions loses tokens in front. bad_input where a token lies outside the vocabulary, a choice adds no
/// token, or the vocabularies differ. Memory: keys and values of one shared beginning, and activations of
/// about 512 tokens.
Result<std::vector<TaskAnswers>> answer_tasks(const model::Model& model, const model::Model* reference,
                                              const io::Tokenizer& tokenizer, std::span<const Task> tasks,
                                              const ChoiceOptions& options, const Progress& progress);

/// Over some questions: shares, with standard errors over questions.
struct Accuracy {
  std::size_t questions = 0;
  MeanError model;
  MeanError reference;
  MeanError difference;  ///< model − reference, paired question by question
  MeanError same_choice;
};

/// `normalised`: by Answer::normalised_choice. Only questions for which `counts` is true.
Accuracy accuracy_of(const Task& task, const TaskAnswers& answers, bool normalised,
                     const std::function<bool(const Question&)>& counts);

}  // namespace optiq::evaluate
