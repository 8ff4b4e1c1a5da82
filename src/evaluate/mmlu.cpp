#include <algorithm>
#include <array>

#include "csv.h"
#include "load.h"
#include "optiq/base/file.h"
#include "text.h"

namespace optiq::evaluate {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kExamples = 5;
constexpr std::size_t kColumns = 6;
constexpr std::string_view kLetters = "ABCD";

/// All that are not in "other".
constexpr std::array<std::pair<std::string_view, std::string_view>, 44> kCategories{{
    {"formal_logic", "humanities"},
    {"high_school_european_history", "humanities"},
    {"high_school_us_history", "humanities"},
    {"high_school_world_history", "humanities"},
    {"international_law", "humanities"},
    {"jurisprudence", "humanities"},
    {"logical_fallacies", "humanities"},
    {"moral_disputes", "humanities"},
    {"moral_scenarios", "humanities"},
    {"philosophy", "humanities"},
    {"prehistory", "humanities"},
    {"professional_law", "humanities"},
    {"world_religions", "humanities"},
    {"econometrics", "social_sciences"},
    {"high_school_geography", "social_sciences"},
    {"high_school_government_and_politics", "social_sciences"},
    {"high_school_macroeconomics", "social_sciences"},
    {"high_school_microeconomics", "social_sciences"},
    {"high_school_psychology", "social_sciences"},
    {"human_sexuality", "social_sciences"},
    {"professional_psychology", "social_sciences"},
    {"public_relations", "social_sciences"},
    {"security_studies", "social_sciences"},
    {"sociology", "social_sciences"},
    {"us_foreign_policy", "social_sciences"},
    {"abstract_algebra", "stem"},
    {"anatomy", "stem"},
    {"astronomy", "stem"},
    {"college_biology", "stem"},
    {"college_chemistry", "stem"},
    {"college_computer_science", "stem"},
    {"college_mathematics", "stem"},
    {"college_physics", "stem"},
    {"computer_security", "stem"},
    {"conceptual_physics", "stem"},
    {"electrical_engineering", "stem"},
    {"elementary_mathematics", "stem"},
    {"high_school_biology", "stem"},
    {"high_school_chemistry", "stem"},
    {"high_school_computer_science", "stem"},
    {"high_school_mathematics", "stem"},
    {"high_school_physics", "stem"},
    {"high_school_statistics", "stem"},
    {"machine_learning", "stem"},
}};

Result<std::size_t> answer_of(const CsvRow& row, const std::string& where) {
  const std::string& text = row.fields.back();
  if (text.size() == 1) {
    if (text[0] >= '0' && text[0] <= '3') return static_cast<std::size_t>(text[0] - '0');
    if (text[0] >= 'A' && text[0] <= 'D') return static_cast<std::size_t>(text[0] - 'A');
  }
  return fail(ErrorCode::bad_input, "{}:{}: expected an answer, 0 to 3 or A to D", where, row.line);
}

bool is_header(const CsvRow& row) {
  return row.fields.front() == "question" && row.fields.back() == "answer";
}

std::string asked(const Exercise& exercise) {
  std::string text(strip(exercise.question));
  for (std::size_t i = 0; i < exercise.choices.size(); ++i)
    text += fmt::format("\n{}. {}", kLetters[i], exercise.choices[i]);
  return text + "\nAnswer:";
}

/// What stands in front of every question of a subject.
std::string beginning(const std::string& subject, const std::vector<Exercise>& examples) {
  std::string text = fmt::format("The following are multiple choice questions (with answers) about {}.\n\n",
                                 replaced(subject, "_", " "));
  for (std::size_t i = 0; i < kExamples; ++i)
    text += fmt::format("{} {}\n\n", asked(examples[i]), kLetters[examples[i].answer]);
  return text;
}

Result<std::vector<Exercise>> read_exercises(const fs::path& path) {
  OPTIQ_TRY(const std::string text, read_text_file(path, 1ull << 30));
  return parse_mmlu(text, path.string());
}

Status append_subject(const fs::path& folder, const std::string& subject, std::vector<Question>& questions) {
  const fs::path examples_path = folder / "dev" / (subject + "_dev.csv");
  OPTIQ_TRY(const auto examples, read_exercises(examples_path));
  if (examples.size() < kExamples) {
    return fail(ErrorCode::bad_input, "{}: expected {} examples or more, got {}", examples_path.string(),
                kExamples, examples.size());
  }
  OPTIQ_TRY(const auto exercises, read_exercises(folder / "test" / (subject + "_test.csv")));
  const std::string shared = beginning(subject, examples);
  for (std::size_t i = 0; i < exercises.size(); ++i) {
    questions.push_back({fmt::format("{}/{}", subject, i),
                         subject,
                         shared + asked(exercises[i]),
                         {" A", " B", " C", " D"},
                         {1, 1, 1, 1},
                         exercises[i].answer});
  }
  return {};
}

}  // namespace

std::string_view mmlu_category(std::string_view subject) {
  const auto found =
      std::ranges::find_if(kCategories, [&](const auto& entry) { return entry.first == subject; });
  return found == kCategories.end() ? "other" : found->second;
}

Result<std::vector<Exercise>> parse_mmlu(std::string_view text, const std::string& where) {
  OPTIQ_TRY(const auto rows, parse_csv(text, where));
  std::vector<Exercise> exercises;
  for (const CsvRow& row : rows) {
    if (row.fields.size() != kColumns) {
      return fail(ErrorCode::bad_input, "{}:{}: expected {} columns, got {}", where, row.line, kColumns,
                  row.fields.size());
    }
    if (&row == &rows.front() && is_header(row)) continue;
    OPTIQ_TRY(const std::size_t answer, answer_of(row, where));
    exercises.push_back({row.fields.front(), {row.fields.begin() + 1, row.fields.end() - 1}, answer});
  }
  return exercises;
}

Result<std::vector<Question>> load_mmlu(const fs::path& folder) {
  constexpr std::string_view kEnding = "_test.csv";
  std::vector<std::string> subjects;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder / "test", error)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(kEnding)) subjects.push_back(name.substr(0, name.size() - kEnding.size()));
  }
  if (subjects.empty()) {
    return fail(ErrorCode::bad_input, "{}: expected files SUBJECT{}, found none", (folder / "test").string(),
                kEnding);
  }
  std::sort(subjects.begin(), subjects.end());
  std::vector<Question> questions;
  for (const std::string& subject : subjects) OPTIQ_CHECK(append_subject(folder, subject, questions));
  return questions;
}

}  // namespace optiq::evaluate
