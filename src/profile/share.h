// What one worker measures of a job that several share.
#pragma once

#include "optiq/calibrate/calibrate.h"
#include "optiq/workers/workers.h"

namespace optiq::profile {

/// A worker's run of the calibration sequences.
struct Share {
  calibrate::TokenBatch batch;  ///< its own
  std::int64_t first = 0;       ///< of all sequences: where its own begin
  std::int64_t all = 0;         ///< how many there are in all

  [[nodiscard]] std::int64_t first_token() const { return first * batch.tokens; }
  [[nodiscard]] std::int64_t all_tokens() const { return all * batch.tokens; }
};

/// Whole groups of `group` sequences for each worker (the last group may have fewer), in order of rank. usage
/// where there are fewer groups than workers.
Result<Share> share_of(const calibrate::TokenBatch& batch, std::int64_t group, const Workers& workers);

/// Rows of every worker's columns, by rank: [rows, columns] of each become [rows, Σ columns].
Result<std::vector<float>> side_by_side(const std::vector<float>& own, std::size_t rows,
                                        const Workers& workers);

}  // namespace optiq::profile
