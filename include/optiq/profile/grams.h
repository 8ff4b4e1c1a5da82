// Second moments of every module's inputs, one stage of the model at a time: what the encoder `gptq` needs.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>

#include "optiq/base/memory.h"
#include "optiq/base/progress.h"
#include "optiq/calibrate/calibrate.h"
#include "optiq/profile/token_weights.h"
#include "optiq/quant/gram.h"

namespace optiq::profile {

/// Module name → (weighted) mean over tokens of x·xᵀ. Modules with the same input share one. A tied head's
/// goes by the name of model.embed_tokens.
using Grams = std::map<std::string, std::shared_ptr<const quant::Gram>>;

/// What the rest of the pass shall use instead of a block's own weights: module name → [out, in].
using Replacements = std::unordered_map<std::string, model::mx::array>;

/// Sees one block's Grams (layer 0 … layers − 1), and at last the head's (layer −1).
using GramVisitor = std::function<Result<Replacements>(std::int64_t layer, const Grams& grams)>;

struct WalkOptions {
  kernels::Compute compute = kernels::Compute::bf16;  ///< of the passes, and of the Grams (kernels::gram)
  /// Later blocks see what a block gives with the weights that `visit` returned in place of its own; what
  /// they are is else ignored.
  bool replaces = false;
  /// Whether a stage's Grams are wanted; `visit` gets none of those that are not. Empty: all are.
  std::function<bool(std::int64_t layer)> wants = {};
  const TokenWeights* weights = nullptr;  ///< of the tokens, borrowed; else all count alike
  MemoryLimit memory = {};  ///< hidden states go to memory.scratch where it has no room for them
};

/// Takes the calibration sequences through the model block by block. Memory: the hidden states of all
/// sequences (f32), one block's weights, Grams and activations of some 2,048 tokens. Cost: a forward pass, a
/// second one of each block where the options say that it is replaced, and in²/2 multiplications a token for
/// each input of a block. Errors: those of `visit`; bad_input naming a module whose inputs are not finite.
Status walk_grams(const model::Model& model, const calibrate::TokenBatch& batch, const WalkOptions& options,
                  const GramVisitor& visit, const Progress& progress);

/// The least memory of walk_grams with an encoder that factors Grams; `replaces` as in the options.
std::uint64_t gram_walk_bytes(const model::Model& model, std::int64_t tokens, bool replaces);

/// Of that: a pass over one block that sums its Grams, so many sequences at once; and beside a block's Grams,
/// what their factors take while its modules are encoded.
std::uint64_t gram_bytes(const model::Model& model, std::int64_t tokens, std::int64_t together);
std::uint64_t factor_bytes(const model::Model& model);
/// The most of any stage while its largest module is encoded: so many bytes for each of its weights, the
/// stage's Grams and what their factors take.
std::uint64_t gram_encoding_bytes(const model::Model& model, std::uint64_t bytes_of_weight);

/// Why activations are not finite: bad_input naming the first weight that is not, or else the model's folder.
Error describe_non_finite(const model::Model& model);

}  // namespace optiq::profile
