// Back through one stage of a model: gradients of its input and of its modules' outputs, and what changes of
// weight make of them.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "delta_store.h"

namespace optiq::profile {

/// A stage of the model: hidden states [sequences, T, hidden] → its output.
using Stage = std::function<model::mx::array(const model::mx::array& input, const model::Pass& pass)>;

/// A block's keys and values as a cache would hold them, and the gradients of both: f32 [sequences, kv_heads,
/// T, head_dim], by kCacheParts.
struct CacheTrace {
  std::vector<model::mx::array> held;
  std::vector<model::mx::array> gradients;
};

struct StageGradients {
  model::mx::array input;                 ///< as the stage's input
  std::vector<model::mx::array> outputs;  ///< of each module [sequences, T, out]
  std::vector<model::mx::array> taps;     ///< what each module reads [sequences, T, in]: no gradient
  std::vector<std::size_t> owners;        ///< of each module the place of the first that reads the same
  CacheTrace cache;                       ///< empty where it was not asked for
};

/// All of them evaluated. `modules` may be empty: then only the input's gradient is computed.
/// `cache`: the shape of a block's keys and of its values, where these are to be traced.
Result<StageGradients> backward(const Stage& stage, std::span<const model::ModuleShape> modules,
                                const model::mx::array& input, const model::mx::array& cotangent,
                                kernels::Compute compute,
                                const std::optional<model::mx::Shape>& cache = std::nullopt);

/// A module in one sample: the gradient of its weight is outputᵀ·input.
struct Factors {
  model::mx::array input;   ///< [T, in]
  model::mx::array output;  ///< [T, out]
};

/// ⟨gradient, ΔW⟩ of every option of `deltas`' subject in every sample: [option][sample]. The gradient is
/// never there as a whole: some kSliceElements of it a sample, for four samples at a time.
Result<std::vector<double>> project(const DeltaStore& deltas, std::size_t subject,
                                    std::span<const Factors> samples, kernels::Compute compute);

/// The most that project() takes beside its arguments, pages of changes on disk included.
std::uint64_t projection_bytes(std::size_t options);

}  // namespace optiq::profile
