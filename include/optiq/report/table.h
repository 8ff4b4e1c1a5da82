// Tables for a terminal.
#pragma once

#include <string>
#include <vector>

namespace optiq::report {

enum class Align { left, right };

struct Column {
  std::string title;
  Align align = Align::left;
};

/// Titles, a rule and the rows, columns two blanks apart and as wide as their widest cell (in code points).
/// A row shorter than the columns is filled up with empty cells. Ends in a newline, without trailing blanks.
std::string format_table(const std::vector<Column>& columns,
                         const std::vector<std::vector<std::string>>& rows);

}  // namespace optiq::report
