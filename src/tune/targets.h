// What the reference says of the calibration set.
#pragma once

#include <string_view>
#include <vector>

#include "optiq/base/progress.h"
#include "optiq/calibrate/calibrate.h"
#include "student.h"

namespace optiq::tune {

/// The reference's kept probabilities at every position of each sequence. bad_input for a token outside the
/// vocabulary, usage for kept_tokens outside [1, vocabulary).
Result<std::vector<kernels::TopProbabilities>> reference_targets(const model::Model& reference,
                                                                 const calibrate::TokenBatch& batch,
                                                                 std::int64_t kept_tokens,
                                                                 kernels::Compute compute,
                                                                 const Progress& progress);

/// Mean divergence over the sequences [first, last) of the batch.
Result<double> mean_divergence(const Student& student, const calibrate::TokenBatch& batch,
                               const std::vector<kernels::TopProbabilities>& targets, std::int64_t first,
                               std::int64_t last);

}  // namespace optiq::tune
