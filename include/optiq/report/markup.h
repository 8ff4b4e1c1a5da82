// Text that goes into HTML and SVG.
#pragma once

#include <string>
#include <string_view>

namespace optiq::report {

/// `untrusted` as text or attribute value of well-formed HTML and XML: & < > " ' as entities, and every byte
/// that is no printable ASCII as \xNN (a model's name may hold anything).
std::string escape_markup(std::string_view untrusted);

}  // namespace optiq::report
