// Choosing the next token from logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "optiq/base/random.h"
#include "optiq/base/result.h"

namespace optiq::runtime {

/// Applied in this order: repetition penalty, temperature, top-k, top-p, min-p, draw.
struct SamplingOptions {
  double temperature = 0;  ///< 0: always the likeliest token
  std::int64_t top_k = 0;  ///< keep the k likeliest; 0: all
  double top_p = 1;        ///< keep the fewest likeliest whose probabilities reach p; 1: all
  double min_p = 0;        ///< drop tokens below min_p · the likeliest's probability
  double repetition_penalty =
      1;  ///< Keskar et al. 2019: positive logits of seen tokens divided by it, others multiplied
  std::int64_t repetition_context = 64;  ///< how many of the last tokens count as seen
  std::uint64_t seed = 0;
};

/// usage error for values outside their ranges.
Status check_sampling(const SamplingOptions& options);

class Sampler {
 public:
  struct Candidate {
    std::int32_t token = 0;
    double value = 0;  ///< a logit, then a probability
  };

  explicit Sampler(const SamplingOptions& options) : options_(options), random_(options.seed) {}

  /// The next token. logits f32 [vocabulary]; seen: the tokens so far. A logit that is NaN is never chosen
  /// (token 0 where all are). About O(vocabulary).
  std::int32_t next(std::span<const float> logits, std::span<const std::int32_t> seen);

 private:
  SamplingOptions options_;
  Random random_;
  std::vector<Candidate> candidates_;  ///< memory kept from token to token
};

}  // namespace optiq::runtime
