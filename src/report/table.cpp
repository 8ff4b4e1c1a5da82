#include "optiq/report/table.h"

#include <algorithm>

namespace optiq::report {
namespace {

std::size_t code_points(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

std::string padded(const std::string& text, std::size_t width, Align align) {
  const std::string blanks(width - code_points(text), ' ');
  return align == Align::left ? text + blanks : blanks + text;
}

}  // namespace

std::string format_table(const std::vector<Column>& columns,
                         const std::vector<std::vector<std::string>>& rows) {
  const auto cell = [](const std::vector<std::string>& row, std::size_t c) {
    return c < row.size() ? row[c] : std::string();
  };
  std::vector<std::size_t> widths;
  for (std::size_t c = 0; c < columns.size(); ++c) {
    widths.push_back(code_points(columns[c].title));
    for (const auto& row : rows) widths.back() = std::max(widths.back(), code_points(cell(row, c)));
  }
  std::string table;
  const auto add_line = [&](const auto& text_of) {
    std::string line;
    for (std::size_t c = 0; c < columns.size(); ++c)
      line += (c == 0 ? "" : "  ") + padded(text_of(c), widths[c], columns[c].align);
    line.erase(line.find_last_not_of(' ') + 1);
    table += line + "\n";
  };
  add_line([&](std::size_t c) { return columns[c].title; });
  add_line([&](std::size_t c) { return std::string(widths[c], '-'); });
  for (const auto& row : rows) add_line([&](std::size_t c) { return cell(row, c); });
  return table;
}

}  // namespace optiq::report
