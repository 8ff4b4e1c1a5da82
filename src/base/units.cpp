#include "optiq/base/units.h"

#include <array>
#include <cmath>
#include <cstdlib>
#include <optional>

namespace optiq {
namespace {

struct Unit {
  std::string_view name;
  double bytes;
};

constexpr std::array<Unit, 12> kUnits{{{"", 1},
                                       {"B", 1},
                                       {"kB", 1e3},
                                       {"KB", 1e3},
                                       {"MB", 1e6},
                                       {"GB", 1e9},
                                       {"TB", 1e12},
                                       {"KiB", 1024.0},
                                       {"MiB", 1048576.0},
                                       {"GiB", 1073741824.0},
                                       {"M", 1e6},
                                       {"G", 1e9}}};

/// Splits "4.2 GB" into 4.2 and "GB"; nullopt where no number stands in front.
std::optional<std::pair<double, std::string_view>> split_number(std::string_view text) {
  const std::string copy(text);
  char* end = nullptr;
  const double number = std::strtod(copy.c_str(), &end);
  const auto used = static_cast<std::size_t>(end - copy.c_str());
  if (used == 0 || !std::isfinite(number)) return std::nullopt;
  std::string_view rest = text.substr(used);
  while (!rest.empty() && rest.front() == ' ') rest.remove_prefix(1);
  return std::pair{number, rest};
}

}  // namespace

Result<std::uint64_t> parse_bytes(std::string_view text) {
  const auto parts = split_number(text);
  if (parts) {
    for (const Unit& unit : kUnits) {
      if (unit.name != parts->second) continue;
      const double bytes = parts->first * unit.bytes;
      if (bytes < 1 || bytes >= 0x1p63) break;
      return static_cast<std::uint64_t>(bytes);
    }
  }
  return fail(ErrorCode::usage, "size \"{}\": expected a positive size such as 8GB, 4.2GB or 512MiB", text);
}

Result<double> parse_fraction(std::string_view text) {
  const auto parts = split_number(text);
  if (parts && (parts->second.empty() || parts->second == "%")) {
    const double fraction = parts->second == "%" ? parts->first / 100 : parts->first;
    if (fraction > 0 && fraction < 1) return fraction;
  }
  return fail(ErrorCode::usage, "fraction \"{}\": expected a value between 0% and 100%, such as 40% or 0.4",
              text);
}

std::string format_bytes(std::uint64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (value < 1e3) return fmt::format("{} bytes", bytes);
  if (value < 1e6) return fmt::format("{:.1f} kB", value / 1e3);
  if (value < 1e9) return fmt::format("{:.1f} MB", value / 1e6);
  return fmt::format("{:.2f} GB", value / 1e9);
}

std::string format_duration(double seconds) {
  const auto whole = static_cast<long long>(std::llround(std::max(0.0, seconds)));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
}

}  // namespace optiq
