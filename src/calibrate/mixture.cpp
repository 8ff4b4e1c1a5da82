#include "optiq/calibrate/mixture.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <optional>

namespace optiq::calibrate {
namespace {

constexpr double kMostWeight = 1e6;

/// The number that `text` is: digits with at most one point.
std::optional<double> decimal(std::string_view text) {
  if (text.empty() || text.find_first_not_of("0123456789.") != std::string_view::npos) return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

Status check_part(const Part& part) {
  if (part.name.empty()) return fail(ErrorCode::usage, "calibration: expected a source, got an empty name");
  if (part.weight > 0 && part.weight <= kMostWeight) return {};
  return fail(ErrorCode::usage, "calibration {}: expected a weight above 0 and at most {}, got {}", part.name,
              kMostWeight, part.weight);
}

Status check_parts(const std::vector<Part>& parts) {
  if (parts.empty()) return fail(ErrorCode::usage, "calibration: expected at least one source");
  for (auto part = parts.begin(); part != parts.end(); ++part) {
    OPTIQ_CHECK(check_part(*part));
    const auto same = [&](const Part& other) { return other.name == part->name; };
    if (std::any_of(parts.begin(), part, same))
      return fail(ErrorCode::usage, "calibration {}: is named twice", part->name);
  }
  return {};
}

}  // namespace

Result<Part> parse_part(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  Part part{std::string(text), 1};
  if (colon != std::string_view::npos) {
    if (const auto weight = decimal(text.substr(colon + 1)))
      part = {std::string(text.substr(0, colon)), *weight};
  }
  OPTIQ_CHECK(check_part(part));
  return part;
}

std::string describe(const std::vector<Part>& parts) {
  if (parts.size() == 1) return parts.front().name;
  std::string text;
  for (const Part& part : parts)
    text += fmt::format("{}{}:{}", text.empty() ? "" : " + ", part.name, part.weight);
  return text;
}

Result<std::vector<std::int64_t>> share_out(const std::vector<Part>& parts, std::int64_t sequences) {
  OPTIQ_CHECK(check_parts(parts));
  double total = 0;
  for (const Part& part : parts) total += part.weight;
  std::vector<std::int64_t> counts;
  std::vector<double> remainders;
  for (const Part& part : parts) {
    const double quota = static_cast<double>(sequences) * part.weight / total;
    counts.push_back(static_cast<std::int64_t>(std::floor(quota)));
    remainders.push_back(quota - std::floor(quota));
  }
  std::vector<std::size_t> order(parts.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order,
                           [&](std::size_t a, std::size_t b) { return remainders[a] > remainders[b]; });
  std::int64_t left = sequences - std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  for (std::size_t i = 0; left > 0; ++i, --left) ++counts[order[i % order.size()]];
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (counts[i] < 1) {
      return fail(ErrorCode::usage, "calibration {}: its weight {} gives it none of {} sequences",
                  parts[i].name, parts[i].weight, sequences);
    }
  }
  return counts;
}

std::vector<std::size_t> interleaved_parts(const std::vector<std::int64_t>& counts) {
  struct Place {
    double position;
    std::size_t part;
  };
  std::vector<Place> places;
  for (std::size_t part = 0; part < counts.size(); ++part) {
    for (std::int64_t j = 0; j < counts[part]; ++j)
      places.push_back({(static_cast<double>(j) + 0.5) / static_cast<double>(counts[part]), part});
  }
  std::ranges::stable_sort(places, {}, &Place::position);
  std::vector<std::size_t> parts;
  for (const Place& place : places) parts.push_back(place.part);
  return parts;
}

}  // namespace optiq::calibrate
