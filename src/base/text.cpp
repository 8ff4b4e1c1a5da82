#include "optiq/base/text.h"

#include <fmt/format.h>

namespace optiq {

std::string printable(std::string_view untrusted, std::size_t limit) {
  std::string shown;
  for (const char c : untrusted.substr(0, limit)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      shown += c;
    } else {
      shown += fmt::format("\\x{:02x}", byte);
    }
  }
  if (untrusted.size() > limit) shown += "…";
  return shown;
}

}  // namespace optiq
