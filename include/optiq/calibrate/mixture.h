// Mixtures of calibration sources: how several share the sequences.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "optiq/base/result.h"

namespace optiq::calibrate {

/// One source of a mixture.
struct Part {
  /// "self" (the model samples its own text: needs no data), or a file. .jsonl has an object a line with
  /// "text", "messages" (through the chat template), or "prompt" and "completion"; .parquet has a column
  /// "text" or "messages"; .txt and anything else is plain text.
  std::string name = "self";
  double weight = 1;  ///< share of the sequences, relative to the other parts'

  bool operator==(const Part&) const = default;
};

/// "NAME", or "NAME:WEIGHT" with a decimal number; what follows the last colon is a weight only where it is
/// one, so that a file called "a:2" is written "a:2:1". usage for an empty name, or a weight of zero or above
/// 10^6.
Result<Part> parse_part(std::string_view text);

/// "a.txt", or "a.txt:2 + self:1": what a report calls the mixture.
std::string describe(const std::vector<Part>& parts);

/// Sequences of each part, by largest remainder; of equal remainders the first part's counts. usage for no
/// parts, one named twice, a weight out of range, or a part that gets no sequence.
Result<std::vector<std::int64_t>> share_out(const std::vector<Part>& parts, std::int64_t sequences);

/// The part of each sequence in turn, so that every beginning holds the parts in proportion: sequence j of n
/// stands at (j + ½)/n, the first part first where two are equal. In any beginning of k sequences the number
/// of part i's differs from its share by at most ½ + share · parts / 2.
std::vector<std::size_t> interleaved_parts(const std::vector<std::int64_t>& counts);

}  // namespace optiq::calibrate
