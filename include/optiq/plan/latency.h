// latency.json: seconds that one token spends in a matrix, for each shape and format, as `optiq bench
// --kernels` measures them on one machine.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "optiq/base/json.h"
#include "optiq/base/result.h"
#include "optiq/quant/format.h"

namespace optiq::plan {

/// What was measured on. Only to tell one table from another.
struct Machine {
  std::string cpu;
  std::string isa;  ///< kernels::cpu_isa
  std::int64_t threads = 0;
};

/// One token through one matrix.
struct MatrixLatency {
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  quant::Format format;       ///< dense: in the model's dtype
  double seconds = 0;         ///< median; > 0
  double spread_seconds = 0;  ///< of the repetitions; ≥ 0
};

struct LatencyTable {
  Machine machine;
  double fixed_seconds = 0;  ///< what a token costs beside the matrices; ≥ 0
  std::vector<MatrixLatency> entries;

  /// Seconds of one token through a matrix [out, in]: as measured where this shape was. Otherwise those of
  /// the entry of this format whose weights are nearest in bytes (by ratio; the first of equals), times the
  /// ratio of the bytes: decoding reads every weight once, and seconds a byte change slowly with size.
  /// bad_input naming the format where it was measured at no shape. Linear in the entries.
  [[nodiscard]] Result<double> seconds(std::int64_t out_features, std::int64_t in_features,
                                       quant::Format format) const;
};

/// The rules of the format beyond types: positive sizes whose product fits, formats that divide the rows,
/// times that are positive and at most an hour, no shape and format twice, at least one entry. bad_input
/// naming `where` and the entry.
Status check_latency(const LatencyTable& table, const std::string& where);

/// Reads and checks.
Result<LatencyTable> latency_from_json(const Json& json, const std::string& where);
Result<LatencyTable> read_latency(const std::filesystem::path& path);

/// Checks, then replaces the file atomically. Times read back as the same doubles.
Status write_latency(const std::filesystem::path& path, const LatencyTable& table);
Json latency_to_json(const LatencyTable& table);

}  // namespace optiq::plan
