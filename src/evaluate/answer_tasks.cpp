#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>

#include "optiq/evaluate/choices.h"
#include "optiq/kernels/cpu.h"
#include "optiq/workers/shared_journal.h"
#include "same_models.h"
#include "score_choices.h"

namespace optiq::evaluate {
namespace {

/// Batches that each of several workers scores at once: neighbours have a beginning in common.
constexpr std::int64_t kBatchesAtOnce = 8;

template <class T>
std::uint64_t hashed(const std::vector<T>& values, std::uint64_t hash) {
  const std::uint64_t size = values.size();
  return fingerprint(std::as_bytes(std::span(values)), fingerprint(std::as_bytes(std::span(&size, 1)), hash));
}

/// What is asked, and how it is computed.
std::string questions_identity(const std::vector<Batch>& batches, kernels::Compute compute) {
  std::uint64_t hash = batches.size();
  for (const Batch& batch : batches) {
    hash = hashed(std::vector<std::uint64_t>{batch.shared, batch.choices}, hash);
    for (const Row& row : batch.rows) {
      hash = hashed(row.tokens, hash);
      for (const Target& target : row.targets) hash = hashed(target.labels, hash);
    }
  }
  return fmt::format("optiq eval tasks 1\n{} {} {:016x}\n", static_cast<int>(compute), kernels::cpu_isa(),
                     hash);
}

/// Everything that a finished batch depends on.
std::string work_identity(const model::Model& model, const model::Model* reference,
                          const std::vector<Batch>& batches, kernels::Compute compute) {
  std::string text = questions_identity(batches, compute);
  text += io::checkpoint_identity(model.checkpoint().folder());
  if (reference != nullptr) text += io::checkpoint_identity(reference->checkpoint().folder());
  return text;
}

std::vector<double> from_bytes(std::span<const std::byte> bytes) {
  std::vector<double> values(bytes.size() / sizeof(double));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(double));
  return values;
}

Answer answer_of(const Question& question, std::span<const double> likelihoods) {
  Answer answer{{likelihoods.begin(), likelihoods.end()}, 0, 0};
  std::vector<double> normalised;
  for (std::size_t i = 0; i < likelihoods.size(); ++i)
    normalised.push_back(likelihoods[i] / static_cast<double>(question.lengths[i]));
  const auto best = [](const std::vector<double>& values) {
    return static_cast<std::size_t>(std::ranges::max_element(values) - values.begin());
  };
  answer.choice = best(answer.log_likelihoods);
  answer.normalised_choice = best(normalised);
  return answer;
}

Status check_workers(const model::Model& model, const model::Model* reference,
                     const std::vector<Batch>& batches, const ChoiceOptions& options) {
  if (options.workers.is_alone()) return {};
  OPTIQ_CHECK(options.workers.require_same(
      questions_identity(batches, options.compute),
      "tasks: questions, options and instruction set (OPTIQ_CPU_ISA forces one)"));
  return require_same_models(options.workers, model, reference, "tasks");
}

/// Scores batches, or takes them from the journal.
class Work {
 public:
  Work(const model::Model& model, const model::Model* reference, const ChoiceOptions& options)
      : scorer_(model, options.compute), workers_(options.workers) {
    const bool rounds = options.compute == kernels::Compute::int8;
    if (reference != nullptr)
      reference_.emplace(*reference, rounds ? kernels::Compute::f32 : options.compute);
  }

  Status open(const std::filesystem::path& path, const std::string& identity) {
    if (path.empty()) return {};
    OPTIQ_TRY(journal_, SharedJournal::open(path, identity, workers_));
    return {};
  }
  [[nodiscard]] std::size_t finished() const { return journal_ ? journal_->records().size() : 0; }

  /// Of the batches from `first` on, each one's likelihoods by the model, then by the reference: one batch,
  /// or as many as several workers score at once.
  Result<std::vector<std::vector<double>>> next(const std::vector<Batch>& batches, std::size_t first) {
    if (first < finished()) {
      OPTIQ_TRY(std::vector<double> values, recorded(batches[first], first));
      return std::vector<std::vector<double>>{std::move(values)};
    }
    const auto left = static_cast<std::int64_t>(batches.size() - first);
    const std::int64_t most = workers_.is_alone() ? 1 : kBatchesAtOnce * workers_.size();
    OPTIQ_TRY(auto scored, score_shared(std::span(batches).subspan(
                               first, static_cast<std::size_t>(std::min(left, most)))));
    for (const auto& values : scored)
      if (journal_) OPTIQ_CHECK(journal_->append(std::as_bytes(std::span(values))));
    return scored;
  }

 private:
  Result<std::vector<double>> score(const Batch& batch) {
    OPTIQ_TRY(std::vector<double> values, scorer_.score(batch));
    if (reference_) {
      OPTIQ_TRY(const auto more, reference_->score(batch));
      values.insert(values.end(), more.begin(), more.end());
    }
    return values;
  }

  /// Each worker a run of the batches.
  Result<std::vector<std::vector<double>>> score_shared(std::span<const Batch> batches) {
    const WorkRange own = workers_.share(static_cast<std::int64_t>(batches.size()));
    std::vector<double> scored;
    for (std::int64_t i = own.begin; i < own.end; ++i) {
      OPTIQ_TRY(const auto values, score(batches[static_cast<std::size_t>(i)]));
      scored.insert(scored.end(), values.begin(), values.end());
    }
    OPTIQ_TRY(const std::vector<double> all, workers_.gather(scored));
    std::vector<std::vector<double>> separated;
    auto place = all.begin();
    for (const Batch& batch : batches) {
      const auto end = place + static_cast<std::ptrdiff_t>(values_of(batch));
      separated.emplace_back(place, end);
      place = end;
    }
    return separated;
  }

  [[nodiscard]] std::size_t values_of(const Batch& batch) const {
    return batch.choices * (reference_ ? 2 : 1);
  }

  Result<std::vector<double>> recorded(const Batch& batch, std::size_t index) const {
    std::vector<double> values = from_bytes(journal_->records()[index]);
    const std::size_t expected = values_of(batch);
    if (values.size() == expected) return values;
    return fail(ErrorCode::bad_input, "the journal's record {}: expected {} values, got {}", index, expected,
                values.size());
  }

  ChoiceScorer scorer_;
  std::optional<ChoiceScorer> reference_;
  Workers workers_;
  std::optional<SharedJournal> journal_;
};

void append_answers(const Task& task, const std::vector<double>& values, bool both, TaskAnswers& answers) {
  const std::size_t per_model = values.size() / (both ? 2 : 1);
  for (std::size_t used = 0; used < per_model;) {
    const Question& question = task.questions[answers.model.size()];
    const std::size_t count = question.choices.size();
    const auto all = std::span(values);
    answers.model.push_back(answer_of(question, all.subspan(used, count)));
    if (both) answers.reference.push_back(answer_of(question, all.subspan(per_model + used, count)));
    used += count;
  }
}

}  // namespace

Result<std::vector<TaskAnswers>> answer_tasks(const model::Model& model, const model::Model* reference,
                                              const io::Tokenizer& tokenizer, std::span<const Task> tasks,
                                              const ChoiceOptions& options, const Progress& progress) {
  if (reference != nullptr && reference->config().vocabulary != model.config().vocabulary) {
    return fail(ErrorCode::bad_input, "tasks: the model has a vocabulary of {}, the reference one of {}",
                model.config().vocabulary, reference->config().vocabulary);
  }
  std::vector<Batch> batches;
  std::vector<std::size_t> task_of;
  double total = 0, done = 0;
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    OPTIQ_TRY(auto more, make_batches(tasks[t], tokenizer, model.config()));
    for (Batch& batch : more) {
      total += static_cast<double>(batch.tokens());
      batches.push_back(std::move(batch));
      task_of.push_back(t);
    }
  }
  OPTIQ_CHECK(check_workers(model, reference, batches, options));
  Work work(model, reference, options);
  OPTIQ_CHECK(work.open(options.journal, work_identity(model, reference, batches, options.compute)));
  std::vector<TaskAnswers> answers(tasks.size());
  for (std::size_t i = 0; i < batches.size();) {
    if (i >= work.finished()) report_progress(progress, "answering questions", done, total);
    OPTIQ_TRY(const auto scored, work.next(batches, i));
    for (const auto& values : scored) {
      append_answers(tasks[task_of[i]], values, reference != nullptr, answers[task_of[i]]);
      done += static_cast<double>(batches[i++].tokens());
    }
  }
  return answers;
}

Accuracy accuracy_of(const Task& task, const TaskAnswers& answers, bool normalised,
                     const std::function<bool(const Question&)>& counts) {
  const auto choice = [&](const Answer& answer) {
    return normalised ? answer.normalised_choice : answer.choice;
  };
  std::vector<double> model, reference, difference, same;
  for (std::size_t i = 0; i < task.questions.size(); ++i) {
    const Question& question = task.questions[i];
    if (!counts(question)) continue;
    model.push_back(choice(answers.model[i]) == question.gold ? 1 : 0);
    if (answers.reference.empty()) continue;
    reference.push_back(choice(answers.reference[i]) == question.gold ? 1 : 0);
    difference.push_back(model.back() - reference.back());
    same.push_back(choice(answers.model[i]) == choice(answers.reference[i]) ? 1 : 0);
  }
  return {model.size(), mean_with_error(model), mean_with_error(reference), mean_with_error(difference),
          mean_with_error(same)};
}

}  // namespace optiq::evaluate
