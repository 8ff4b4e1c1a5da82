// How much each calibration token's error counts at the outputs of each module: what weighs the second
// moments that `gptq` encodes by, so that it lowers the model's divergence and not a module's squared error
// (after Kim et al., GuidedQuant, arXiv 2505.07004).
#pragma once

#include <map>
#include <string>
#include <vector>

namespace optiq::profile {

/// Module → the weight of every calibration token [sequences · tokens], mean 1, of bf16's precision. Modules
/// that read the same input share one, which goes by the name of the first. A tied head's goes by the name of
/// model.embed_tokens.
///
/// A token's weight is the root of the mean over output channels of (∂ log p/∂y)², where p is the probability
/// of labels that the model draws for all tokens of its sequence; of modules with one input, the mean of
/// their weights. (The square itself is what a second-order expansion asks for; its few largest values then
/// decide, and less is won: docs/adr/0010.)
using TokenWeights = std::map<std::string, std::vector<float>>;

}  // namespace optiq::profile
