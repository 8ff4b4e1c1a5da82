// Quantities that people type: sizes and percentages.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "optiq/base/result.h"

namespace optiq {

/// Bytes of "8GB", "4.2 GB", "512MiB", "1000" (bytes). GB = 10^9, GiB = 2^30. Zero, negative, absurd (≥ 2^63)
/// or malformed sizes are ErrorCode::usage.
Result<std::uint64_t> parse_bytes(std::string_view text);

/// The fraction in (0, 1) of "40%" or "0.4"; anything else is ErrorCode::usage.
Result<double> parse_fraction(std::string_view text);

/// "1.23 GB", "456 kB", "78 bytes".
std::string format_bytes(std::uint64_t bytes);

/// "2 h 05 min", "3 min 20 s", "12 s".
std::string format_duration(double seconds);

}  // namespace optiq
