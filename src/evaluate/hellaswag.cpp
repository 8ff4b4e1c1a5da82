#include <algorithm>
#include <span>

#include "load.h"
#include "optiq/base/file.h"
#include "text.h"

namespace optiq::evaluate {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kLinesPerQuestion = 6;
constexpr std::size_t kTextLimitBytes = std::size_t{1} << 30;

/// Without [what stands in brackets]; an opening one that nothing closes stays.
std::string without_brackets(std::string_view text) {
  std::string result;
  for (;;) {
    const std::size_t open = text.find('['), close = text.find(']', std::min(open, text.size()));
    if (open == std::string_view::npos || close == std::string_view::npos) return result.append(text);
    result.append(text.substr(0, open));
    text.remove_prefix(close + 1);
  }
}

/// WikiHow's marks become a text that reads on.
std::string cleaned(std::string_view text) {
  return replaced(without_brackets(replaced(strip(text), " [title]", ". ")), "  ", " ");
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    lines.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

Result<Question> make_question(std::span<const std::string_view> lines, std::size_t number,
                               const std::string& where) {
  Question question{fmt::format("hellaswag/{}", number), "", cleaned(lines[0]), {}, {}, 0};
  const std::size_t line = number * kLinesPerQuestion + 1;
  const std::string_view gold = strip(lines[1]);
  if (gold.size() != 1 || gold[0] < '0' || gold[0] > '3')
    return fail(ErrorCode::bad_input, "{}:{}: expected the right ending's index, 0 to 3", where, line + 1);
  question.gold = static_cast<std::size_t>(gold[0] - '0');
  for (const std::string_view raw : lines.subspan(2)) {
    const std::string ending = cleaned(raw);
    if (ending.empty() || strip(question.context).empty())
      return fail(ErrorCode::bad_input, "{}:{}: expected a context and four endings, one is empty", where,
                  line);
    question.choices.push_back(" " + ending);
    question.lengths.push_back(characters(ending));
  }
  return question;
}

}  // namespace

Result<std::vector<Question>> parse_hellaswag(std::string_view text, const std::string& where) {
  const auto lines = lines_of(text);
  if (lines.empty() || lines.size() % kLinesPerQuestion != 0) {
    return fail(ErrorCode::bad_input, "{}: expected {} lines a question, got {} lines", where,
                kLinesPerQuestion, lines.size());
  }
  std::vector<Question> questions;
  for (std::size_t i = 0; i < lines.size() / kLinesPerQuestion; ++i) {
    const auto part = std::span(lines).subspan(i * kLinesPerQuestion, kLinesPerQuestion);
    OPTIQ_TRY(Question question, make_question(part, i, where));
    questions.push_back(std::move(question));
  }
  return questions;
}

Result<std::vector<Question>> load_hellaswag(const fs::path& folder) {
  const fs::path plain = folder / "hellaswag_val_full.txt", packed = folder / "hellaswag_val_full.txt.bz2";
  std::error_code ignored;
  if (fs::exists(plain, ignored)) {
    OPTIQ_TRY(const std::string text, read_text_file(plain, kTextLimitBytes));
    return parse_hellaswag(text, plain.string());
  }
  if (!fs::exists(packed, ignored))
    return fail(ErrorCode::bad_input, "{}: expected it, or that with .bz2, found neither", plain.string());
  OPTIQ_TRY(const std::string bytes, read_text_file(packed, kTextLimitBytes));
  OPTIQ_TRY(const std::string text, decompress_bzip2(bytes, kTextLimitBytes, packed.string()));
  return parse_hellaswag(text, packed.string());
}

}  // namespace optiq::evaluate
