// The reference model: a checkpoint that computes what its source computes, with other weights.
//
// Weights that were dequantized lie on the grid of their quantization, which flatters whatever quantizes them
// again. A transformer block leaves several scalings free: each of the following changes weights and not the
// function (in exact arithmetic), so a random factor exp(u), u uniform in [−0.2, 0.2), for each channel moves
// every linear layer's weights off the grid.
//   - Input channels of q_proj, k_proj and v_proj against input_layernorm.weight, which multiplies those very
//   channels:
//     column c · f, norm[c] / f.
//   - Input channels of gate_proj and up_proj against post_attention_layernorm.weight, likewise.
//   - Rows of v_proj (and its bias) against columns of o_proj: attention mixes positions, never the channels
//   of a head,
//     so a factor on channel d of KV head h comes out on channel d of each query head that reads h (n /
//     kv_heads of them, consecutive), where o_proj's column undoes it.
//   - Rows of up_proj (and its bias) against columns of down_proj: the gate multiplies up's output
//   elementwise.
// Left as they are: q's and k's rows (RoPE and the norms of q and k tie channels together), gate's rows (SiLU
// is not homogeneous), embeddings and head.
#pragma once

#include <cstdint>
#include <filesystem>

#include "optiq/base/dtype.h"
#include "optiq/base/result.h"

namespace optiq::tools {

struct ReferenceOptions {
  DType dtype = DType::bf16;  ///< f32 or bf16
  std::uint64_t seed = 20240917;
};

/// Writes `out` from the f32 checkpoint `source` (with separate q, k, v and gate, up): weights scaled in
/// double and rounded once, config.json with its dtype changed, tokenizer files copied. The same source,
/// options and program give the same bytes. bad_input where a tensor is missing, no F32, or of another shape
/// than its neighbours imply. Memory: one tensor, and the factors.
Status make_reference(const std::filesystem::path& source, const std::filesystem::path& out,
                      const ReferenceOptions& options);

}  // namespace optiq::tools
