// Comma-separated values (RFC 4180).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "optiq/base/result.h"

namespace optiq::evaluate {

struct CsvRow {
  std::size_t line = 0;  ///< where it begins, from 1
  std::vector<std::string> fields;
};

/// Rows end with LF or CRLF; empty lines are skipped. bad_input for a quote that is not closed, or text
/// behind a closing one.
Result<std::vector<CsvRow>> parse_csv(std::string_view text, const std::string& where);

}  // namespace optiq::evaluate
