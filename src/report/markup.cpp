#include "optiq/report/markup.h"

#include "optiq/base/text.h"

namespace optiq::report {

std::string escape_markup(std::string_view untrusted) {
  std::string escaped;
  for (const char c : printable(untrusted, 4096)) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

}  // namespace optiq::report
