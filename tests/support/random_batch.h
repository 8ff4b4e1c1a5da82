// Calibration tokens for tests.
#pragma once

#include "optiq/base/random.h"
#include "optiq/calibrate/calibrate.h"

namespace optiq::test {

/// Tokens drawn evenly from the vocabulary.
inline calibrate::TokenBatch random_batch(Random& random, const model::Model& model, std::int64_t sequences,
                                          std::int64_t tokens) {
  calibrate::TokenBatch batch{sequences, tokens, {}};
  for (std::int64_t i = 0; i < sequences * tokens; ++i)
    batch.ids.push_back(
        static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(model.config().vocabulary))));
  return batch;
}

}  // namespace optiq::test
