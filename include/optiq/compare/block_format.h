// Formats of other tools, simulated: what their weights become, and the bytes they take. A model is written
// with the values that such a file gives back, so that its quality can be measured; it is not written in the
// format.
#pragma once

#include <filesystem>
#include <span>
#include <string_view>

#include "optiq/base/progress.h"
#include "optiq/model/model.h"

namespace optiq::compare {

enum class BlockFormat {
  /// ggml's Q4_0: blocks of 32 of a row; d = m / −8 in f16, m the value of largest magnitude (the first of
  /// several); q = min(15, ⌊x / d + 8.5⌋) with 1 / d in f32 and unrounded; back: d · (q − 8). 18 bytes a
  /// block.
  /// Source: quantize_row_q4_0_ref of ggml, and gguf.quants of its Python package.
  q4_0,
  /// bitsandbytes' NF4 with its defaults: blocks of 64 weights one after another, absmax a in f32 (no double
  /// quantization); the nearest of 16 codes to x · (1 / a), on a tie the smaller; back: code · a. 4 bits a
  /// weight
  /// and 4 bytes a block. Source: kQuantizeBlockwise and dQuantizeNF4 of bitsandbytes; QLoRA, arXiv
  /// 2305.14314.
  nf4,
};
std::string_view block_format_name(BlockFormat format);

/// Whole blocks in place; the last may be shorter (nf4 only).
void round_to_blocks(BlockFormat format, std::span<float> values);

/// bytes of `count` weights.
std::uint64_t block_bytes(BlockFormat format, std::uint64_t count);

/// Bytes of the model with all its matrices, embeddings and head too, in the format, and all other tensors as
/// they are. Headers are not counted. bad_input where a row is no multiple of the block (q4_0).
Result<std::uint64_t> simulated_bytes(const model::Model& model, BlockFormat format);

/// Writes the model that such a file gives back into `folder` (missing; it is made): a full-precision
/// checkpoint in f32, exact.
Status write_simulated(const model::Model& model, BlockFormat format, const std::filesystem::path& folder,
                       const Progress& progress);

}  // namespace optiq::compare
