// Text that came from outside, made safe to show.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace optiq {

/// `untrusted` as it may stand in an error message: printable ASCII as it is, every other byte as \xNN, cut
/// after `limit` bytes of input with "…" behind. (A tensor's name may be megabytes of terminal escapes.)
std::string printable(std::string_view untrusted, std::size_t limit = 200);

}  // namespace optiq
