// What each module's inputs look like: the mean squared activation of every input channel, which the `range`
// encoder weighs its errors with.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "optiq/base/memory.h"
#include "optiq/base/progress.h"
#include "optiq/calibrate/calibrate.h"
#include "optiq/profile/token_weights.h"

namespace optiq::profile {

/// Module name → mean over tokens of x_i² for each input channel ([in], f32). A tied head counts under
/// "model.embed_tokens"; an embedding that is only looked up has no entry.
using Importance = std::map<std::string, std::vector<float>>;

/// One forward pass over the calibration sequences, block by block; their hidden states go to memory.scratch
/// where the limit has no room for them.
Result<Importance> measure_importance(const model::Model& model, const calibrate::TokenBatch& batch,
                                      kernels::Compute compute, const MemoryLimit& memory,
                                      const Progress& progress);

/// The file that stands beside sensitivity.json: "x/sensitivity.json" →
/// "x/sensitivity.importance.safetensors".
std::filesystem::path importance_path(const std::filesystem::path& sensitivity);

/// A safetensors file with one F32 tensor [in] a module, the calibration tokens that it was measured on
/// (I32 [sequences, tokens], "calibration.tokens"): encoders that need more than importance measure on these
/// again; and where tokens were weighed, one BF16 tensor [sequences, tokens] for each input
/// ("MODULE.token_weights"). Replaced atomically.
Status write_importance(const std::filesystem::path& path, const Importance& importance,
                        const calibrate::TokenBatch& batch, const TokenWeights& weights = {});
/// bad_input where a tensor is no F32 vector of finite, non-negative values.
Result<Importance> read_importance(const std::filesystem::path& path);
/// The tokens. bad_input where there are none, or fewer than 2 a sequence, or one is negative.
Result<calibrate::TokenBatch> read_calibration_tokens(const std::filesystem::path& path);
/// The weights of these tokens; none where they were not weighed. bad_input where their shape is not that of
/// the tokens, or a value is negative or not finite.
Result<TokenWeights> read_token_weights(const std::filesystem::path& path,
                                        const calibrate::TokenBatch& batch);

}  // namespace optiq::profile
