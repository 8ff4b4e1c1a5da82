// What a block's LayerCache holds of one sequence between passes, as tensors of a file, and back.
//
//   keys, values     [1, kv_heads, rows, head_dim], in the format's type; F16 in a packed one, of the tokens
//                    that wait to be packed
//
// and in a packed format, with the last axis in words of U32, or elements of F16 where a part is not packed:
//
//   key_pages        [pages, 1, kv_heads, head_dim, kCachePage]
//   value_pages      [pages, 1, kv_heads, kCachePage, head_dim]
//   key_scales, key_biases, value_scales, value_biases
//                    F16, likewise, one for a group along the last axis; those of a packed part only
//
// Rows and pages that a sliding window has let go of are not there. The number of tokens and the shapes tell
// LayerCache's counters.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "optiq/io/safetensors.h"
#include "optiq/model/model.h"

namespace optiq::model {

/// The tensors in their order, for any number of rows and of pages (−1: any). `shape.format` is one that
/// check_cache_format takes.
std::vector<io::TensorSpec> content_specs(const kernels::cpu::CacheShape& shape, std::int64_t rows,
                                          std::int64_t pages);
/// Of one that a LayerCache with a format holds.
std::vector<io::TensorSpec> content_specs(const kernels::cpu::CacheShape& shape, const LayerCache& cache);

/// The tensors of content_specs(shape, cache), each a copy that is made when it is evaluated.
std::vector<mx::array> content_of(const LayerCache& cache);

/// A cache that goes on as the one did whose tensors these are, of `tokens` tokens, batch 1; its buffers are
/// as large as they grew there. `content`: one for each of content_specs(shape, −1, −1), of that name's type
/// and shape; may be unaligned. bad_input (naming the tensor) for numbers of rows and pages that no such
/// cache has, or that lack what its window sees; out_of_resources.
Result<LayerCache> restored(const kernels::cpu::CacheShape& shape, int tokens,
                            std::span<const io::TensorView> content);

}  // namespace optiq::model
