#include "tasks_output.h"

#include <set>

namespace optiq::apps {
namespace {

using evaluate::Accuracy;
using evaluate::Question;
using evaluate::Task;
using evaluate::TaskAnswers;

bool all(const Question& /*question*/) {
  return true;
}

/// `name` is acc or acc_norm.
Json accuracy_json(const Accuracy& accuracy, const std::string& name, bool has_reference) {
  Json json{{name, accuracy.model.mean}, {name + "_stderr", accuracy.model.standard_error}};
  if (!has_reference) return json;
  json["reference_" + name] = accuracy.reference.mean;
  json["reference_" + name + "_stderr"] = accuracy.reference.standard_error;
  json[name + "_difference"] = accuracy.difference.mean;
  json[name + "_difference_stderr"] = accuracy.difference.standard_error;
  json["same_" + name + "_choice"] = accuracy.same_choice.mean;
  json["same_" + name + "_choice_stderr"] = accuracy.same_choice.standard_error;
  return json;
}

/// Accuracy of each part; a question's part is what `part_of` says.
Json parts_json(const Task& task, const TaskAnswers& answers,
                const std::function<std::string(const Question&)>& part_of) {
  std::set<std::string> parts;
  for (const Question& question : task.questions) parts.insert(part_of(question));
  Json json = Json::object();
  for (const std::string& part : parts) {
    const auto counts = [&](const Question& question) { return part_of(question) == part; };
    const Accuracy accuracy = evaluate::accuracy_of(task, answers, false, counts);
    json[part] = accuracy_json(accuracy, "acc", !answers.reference.empty());
    json[part]["questions"] = accuracy.questions;
  }
  return json;
}

Json answers_json(const Task& task, const TaskAnswers& answers) {
  Json list = Json::array();
  for (std::size_t i = 0; i < task.questions.size(); ++i) {
    const evaluate::Answer& answer = answers.model[i];
    list.push_back({{"id", task.questions[i].id},
                    {"gold", task.questions[i].gold},
                    {"choice", answer.choice},
                    {"normalised_choice", answer.normalised_choice},
                    {"log_likelihoods", answer.log_likelihoods}});
    if (!answers.reference.empty())
      list.back()["reference_log_likelihoods"] = answers.reference[i].log_likelihoods;
  }
  return list;
}

std::string percent(const MeanError& share, bool sign) {
  const double mean = 100 * share.mean, error = 100 * share.standard_error;
  return sign ? fmt::format("{:+.2f} ± {:.2f}", mean, error) : fmt::format("{:.2f} ± {:.2f}", mean, error);
}

std::string accuracy_text(const Accuracy& accuracy, const std::string& label, bool has_reference) {
  std::string text =
      fmt::format("{:<19}{} %   ({} questions)\n", label, percent(accuracy.model, false), accuracy.questions);
  if (!has_reference) return text;
  return text + fmt::format("  reference {} %, difference {} points, same choice {} %\n",
                            percent(accuracy.reference, false), percent(accuracy.difference, true),
                            percent(accuracy.same_choice, false));
}

}  // namespace

Json task_json(const Task& task, const TaskAnswers& answers) {
  const bool has_reference = !answers.reference.empty();
  Json json{{"questions", task.questions.size()}};
  json.update(accuracy_json(evaluate::accuracy_of(task, answers, false, all), "acc", has_reference));
  if (task.normalised)
    json.update(accuracy_json(evaluate::accuracy_of(task, answers, true, all), "acc_norm", has_reference));
  if (!task.questions.front().subject.empty()) {
    json["categories"] = parts_json(task, answers, [](const Question& question) {
      return std::string(evaluate::mmlu_category(question.subject));
    });
    json["subjects"] = parts_json(task, answers, [](const Question& question) { return question.subject; });
  }
  json["answers"] = answers_json(task, answers);
  return json;
}

std::string task_text(const Task& task, const TaskAnswers& answers) {
  const bool has_reference = !answers.reference.empty();
  std::string text =
      accuracy_text(evaluate::accuracy_of(task, answers, false, all), task.name + " acc", has_reference);
  if (task.normalised) {
    text += accuracy_text(evaluate::accuracy_of(task, answers, true, all), task.name + " acc_norm",
                          has_reference);
  }
  return text;
}

}  // namespace optiq::apps
