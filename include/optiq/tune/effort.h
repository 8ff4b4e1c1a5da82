// How much work `optiq quantize` does: three recipes, each of which does more than the one before.
#pragma once

#include <string_view>

#include "optiq/model/model.h"
#include "optiq/quant/encoder.h"

namespace optiq::tune {

enum class Effort {
  fast,      ///< range search, a quarter of the calibration set, one plan
  balanced,  ///< gptq, the plan as predicted, beside its guards
  best,  ///< gptq, corrected while it helps; then rounding learned at few bits, scales and biases distilled
};
/// usage error for a name that is none of them.
Result<Effort> parse_effort(std::string_view name);

struct Recipe {
  quant::Encoder encoder = quant::Encoder::gptq;
  std::int64_t sequences = 128;  ///< of calibration
  int refine_rounds = 0;         ///< RefineOptions::rounds
  int learned_bits = 0;          ///< RoundOptions::most_bits; 0: no rounding is learned
  std::int64_t distill_epochs = 0;
};
Recipe recipe_of(Effort effort);

/// Seconds that profiling with `fisher`, encoding, tuning and measuring will take on this machine, roughly,
/// from the time that `tokens` tokens take in the first block and the head. `formats`: how many are priced. Of
/// a streamed model a stage at a time is in memory.
Result<double> estimate_seconds(const model::Model& model, const Recipe& recipe, std::int64_t tokens,
                                std::int64_t label_draws, std::size_t formats);

}  // namespace optiq::tune
