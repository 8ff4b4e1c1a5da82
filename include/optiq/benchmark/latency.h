// Measures the planner's latency table (plan/latency.h) on this machine.
#pragma once

#include <filesystem>

#include "optiq/base/progress.h"
#include "optiq/engine/engine.h"
#include "optiq/plan/latency.h"

namespace optiq::benchmark {

struct LatencyOptions {
  engine::Options engine = {};
  int repeats = 15;  ///< of each shape and format; the median counts
};

/// One token through every shape of the model's modules at every format that divides its rows, and dense in
/// the model's dtype. The weights are random and lie in 256 MB that are walked through, so that they come
/// from memory as they do when a model decodes. fixed_seconds is what a token of the model itself takes
/// beyond its matrices, at an empty cache. Takes about a second a shape. usage for
/// fewer than 1 repeat.
Result<plan::LatencyTable> measure_latency(const std::filesystem::path& model, const LatencyOptions& options,
                                           const Progress& progress);

}  // namespace optiq::benchmark
