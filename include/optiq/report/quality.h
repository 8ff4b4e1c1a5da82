// What was measured of a model, as reports show it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "optiq/base/statistics.h"

namespace optiq::report {

/// What evaluation measured of one model, each with its standard error.
struct Quality {
  std::string name;  ///< "optiq", "uniform 4x64", "reference"
  std::uint64_t bytes = 0;
  double bits_per_weight = 0;
  std::optional<MeanError> perplexity;
  std::optional<MeanError> kl;              ///< to the reference, nats a token
  std::optional<MeanError> top1_agreement;  ///< with the reference, 0 to 1
  bool is_ours = false;
  /// Of a baseline: the KL of `rival`, a model of ours of its size, minus its own; the mean over windows of
  /// the differences in each.
  std::optional<MeanError> kl_difference;
  std::string rival;
};

}  // namespace optiq::report
