// Python's notions of white space and length, which the tasks' protocol rests on.
#pragma once

#include <string>
#include <string_view>

namespace optiq::evaluate {

/// Bytes of Unicode white space at the end.
std::size_t trailing_space(std::string_view text);
/// Without Unicode white space at both ends.
std::string_view strip(std::string_view text);
/// Code points of UTF-8.
std::size_t characters(std::string_view text);
/// Every non-overlapping `from`, from the left, becomes `to`.
std::string replaced(std::string_view text, std::string_view from, std::string_view to);

}  // namespace optiq::evaluate
