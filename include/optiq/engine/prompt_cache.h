// A sequence in a file: what an engine has computed of a prompt, so that the same prompt, or one that begins
// like it, need not be computed again.
//
// A file as prompt_cache_file.h has it. "compute" is "int8" or "f32"; keys are named rotated where
// Options::rotates. Tensors of a block:
//
//   blocks.N.pages   U8 [pages, CacheShape::page_bytes()]: as they lie in memory (kernels/kv_cache.h)
//   blocks.N.recent_keys, blocks.N.recent_values
//                    F16 [kv_heads, recent, head_dim]: those that wait to be packed; recent is 0 in a format
//                    that is not packed
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "optiq/base/result.h"
#include "optiq/engine/engine.h"

namespace optiq::engine {

/// Replaces `path` by what `engine` holds; `tokens` are those it was fed. It appears whole or not at all:
/// out_of_resources where it cannot be written. usage for no tokens, or another number than the engine holds.
Status write_prompt_cache(const std::filesystem::path& path, const Engine& engine,
                          std::span<const std::int32_t> tokens);

/// Puts the sequence of a file in place of what `engine` holds, and returns its tokens. What is fed then, and
/// its logits, are to the bit as in the engine that wrote the file. bad_input, which leaves the engine as it
/// was, naming file, tensor, what was expected and what came: no such file, a truncated one or one of another
/// kind; another checkpoint, compute, format of the cache or rotation; tokens outside the vocabulary or more
/// than the model's positions; tensors that do not fit together. out_of_resources where there is no memory.
Result<std::vector<std::int32_t>> read_prompt_cache(const std::filesystem::path& path, Engine& engine);

}  // namespace optiq::engine
