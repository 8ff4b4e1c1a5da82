#include "csv.h"

#include <algorithm>

namespace optiq::evaluate {
namespace {

class Parser {
 public:
  Parser(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  Result<std::vector<CsvRow>> rows() {
    std::vector<CsvRow> rows;
    while (place_ < text_.size()) {
      if (ends_line()) {
        next_line();
        continue;
      }
      OPTIQ_TRY(CsvRow row, one_row());
      rows.push_back(std::move(row));
    }
    return rows;
  }

 private:
  [[nodiscard]] bool at(char c) const { return place_ < text_.size() && text_[place_] == c; }
  [[nodiscard]] bool ends_line() const {
    return place_ == text_.size() || at('\n') || text_.substr(place_, 2) == "\r\n";
  }
  void next_line() {
    if (at('\r')) ++place_;
    if (at('\n')) ++place_;
    ++line_;
  }

  Result<CsvRow> one_row() {
    CsvRow row{line_, {}};
    for (;;) {
      OPTIQ_TRY(std::string field, at('"') ? quoted() : plain());
      row.fields.push_back(std::move(field));
      if (!at(',')) break;
      ++place_;
    }
    next_line();
    return row;
  }

  Result<std::string> plain() {
    const std::size_t begin = place_;
    while (!ends_line() && !at(',')) ++place_;
    return std::string(text_.substr(begin, place_ - begin));
  }

  Result<std::string> quoted() {
    const std::size_t first_line = line_;
    std::string field;
    for (;;) {
      const std::size_t quote = text_.find('"', ++place_);
      if (quote == std::string_view::npos)
        return fail(ErrorCode::bad_input, "{}:{}: a quote is not closed", where_, first_line);
      const std::string_view part = text_.substr(place_, quote - place_);
      line_ += static_cast<std::size_t>(std::ranges::count(part, '\n'));
      field += part;
      place_ = quote + 1;
      if (!at('"')) break;
      field += '"';
    }
    if (!ends_line() && !at(','))
      return fail(ErrorCode::bad_input, "{}:{}: expected a comma behind a closing quote", where_, line_);
    return field;
  }

  std::string_view text_;
  const std::string& where_;
  std::size_t place_ = 0;
  std::size_t line_ = 1;
};

}  // namespace

Result<std::vector<CsvRow>> parse_csv(std::string_view text, const std::string& where) {
  return Parser(text, where).rows();
}

}  // namespace optiq::evaluate
