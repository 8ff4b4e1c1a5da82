#include "optiq/plan/latency.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <tuple>

#include "optiq/base/file.h"
#include "optiq/base/text.h"
#include "optiq/profile/model_facts.h"

namespace optiq::plan {
namespace {

constexpr std::string_view kFormat = "optiq-latency";
constexpr double kMostSeconds = 3600;
constexpr std::int64_t kMostThreads = 1 << 20;

/// For ratios only: as if every model were of 16 bits.
double weight_bytes(std::int64_t out_features, std::int64_t in_features, quant::Format format) {
  return static_cast<double>(quant::module_bytes(out_features, in_features, format, DType::bf16));
}

Json entry_to_json(const MatrixLatency& entry) {
  return {{"out_features", entry.out_features}, {"in_features", entry.in_features},
          {"bits", entry.format.bits},          {"group_size", entry.format.group_size},
          {"seconds", entry.seconds},           {"spread_seconds", entry.spread_seconds}};
}

Result<Machine> read_machine(const JsonReader& reader) {
  Machine machine;
  OPTIQ_TRY(machine.cpu, reader.string("cpu"));
  OPTIQ_TRY(machine.isa, reader.string("isa"));
  OPTIQ_TRY(machine.threads, reader.integer("threads"));
  return machine;
}

Result<MatrixLatency> read_entry(const JsonReader& reader) {
  MatrixLatency entry;
  OPTIQ_TRY(entry.out_features, reader.integer("out_features"));
  OPTIQ_TRY(entry.in_features, reader.integer("in_features"));
  OPTIQ_TRY(entry.format, profile::format_from_json(reader));
  OPTIQ_TRY(entry.seconds, reader.number("seconds"));
  OPTIQ_TRY(entry.spread_seconds, reader.number("spread_seconds"));
  return entry;
}

Status check_seconds(double seconds, bool may_be_zero, std::string_view what, const std::string& where) {
  if (seconds <= kMostSeconds && (seconds > 0 || (may_be_zero && seconds == 0))) return {};
  return fail(ErrorCode::bad_input, "{}: \"{}\" is {}, expected {} {} seconds", where, what, seconds,
              may_be_zero ? "0 to" : "more than 0, at most", kMostSeconds);
}

Status check_entry(const MatrixLatency& entry, const std::string& where) {
  OPTIQ_CHECK(profile::check_shape(entry.out_features, entry.in_features, where));
  OPTIQ_CHECK(quant::check_format(entry.format, entry.in_features, where));
  OPTIQ_CHECK(check_seconds(entry.seconds, false, "seconds", where));
  return check_seconds(entry.spread_seconds, true, "spread_seconds", where);
}

}  // namespace

Result<double> LatencyTable::seconds(std::int64_t out_features, std::int64_t in_features,
                                     quant::Format format) const {
  const double bytes = weight_bytes(out_features, in_features, format);
  double least_distance = std::numeric_limits<double>::infinity();
  double seconds = 0;
  for (const MatrixLatency& entry : entries) {
    if (entry.format != format) continue;
    if (entry.out_features == out_features && entry.in_features == in_features) return entry.seconds;
    const double ratio = bytes / weight_bytes(entry.out_features, entry.in_features, format);
    const double distance = std::fabs(std::log(ratio));
    if (distance >= least_distance) continue;
    least_distance = distance;
    seconds = entry.seconds * ratio;
  }
  if (std::isfinite(least_distance)) return seconds;
  return fail(ErrorCode::bad_input, "format {} was not measured", quant::to_string(format));
}

Status check_latency(const LatencyTable& table, const std::string& where) {
  if (table.machine.threads < 1 || table.machine.threads > kMostThreads) {
    return fail(ErrorCode::bad_input, "{}: machine: \"threads\" is {}, expected 1 to {}", where,
                table.machine.threads, kMostThreads);
  }
  OPTIQ_CHECK(check_seconds(table.fixed_seconds, true, "fixed_seconds", where));
  if (table.entries.empty()) return fail(ErrorCode::bad_input, "{}: no entries", where);
  std::set<std::tuple<std::int64_t, std::int64_t, quant::Format>> seen;
  for (std::size_t i = 0; i < table.entries.size(); ++i) {
    const MatrixLatency& entry = table.entries[i];
    const std::string here = fmt::format("{}: entries[{}]", where, i);
    OPTIQ_CHECK(check_entry(entry, here));
    if (!seen.emplace(entry.out_features, entry.in_features, entry.format).second) {
      return fail(ErrorCode::bad_input, "{}: {} of [{}, {}] is listed twice", here,
                  quant::to_string(entry.format), entry.out_features, entry.in_features);
    }
  }
  return {};
}

Json latency_to_json(const LatencyTable& table) {
  Json entries = Json::array();
  for (const MatrixLatency& entry : table.entries) entries.push_back(entry_to_json(entry));
  return {{"format", kFormat},
          {"version", profile::kFileVersion},
          {"machine",
           {{"cpu", table.machine.cpu}, {"isa", table.machine.isa}, {"threads", table.machine.threads}}},
          {"fixed_seconds", table.fixed_seconds},
          {"entries", std::move(entries)}};
}

Result<LatencyTable> latency_from_json(const Json& json, const std::string& where) {
  const JsonReader reader(json, where);
  OPTIQ_CHECK(profile::check_file_kind(reader, kFormat));
  LatencyTable table;
  OPTIQ_TRY(const JsonReader machine, reader.object("machine"));
  OPTIQ_TRY(table.machine, read_machine(machine));
  OPTIQ_TRY(table.fixed_seconds, reader.number("fixed_seconds"));
  OPTIQ_TRY(const Json* entries, reader.array("entries"));
  for (const Json& entry_json : *entries) {
    const std::string here = fmt::format("{}: entries[{}]", where, table.entries.size());
    OPTIQ_TRY(MatrixLatency entry, read_entry(JsonReader(entry_json, here)));
    table.entries.push_back(entry);
  }
  OPTIQ_CHECK(check_latency(table, where));
  return table;
}

Result<LatencyTable> read_latency(const std::filesystem::path& path) {
  OPTIQ_TRY(const Json json, read_json_file(path));
  return latency_from_json(json, path.string());
}

Status write_latency(const std::filesystem::path& path, const LatencyTable& table) {
  OPTIQ_CHECK(check_latency(table, path.string()));
  return write_file_atomically(path, format_json(latency_to_json(table)));
}

}  // namespace optiq::plan
