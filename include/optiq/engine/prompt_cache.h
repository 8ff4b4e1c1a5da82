// A sequence in a file: what an engine has computed of a prompt, so that the same prompt, or one that begins
// like it, need not be computed again.
//
// A safetensors file. Metadata: "format" "optiq-prompt-cache", "version" "1", "checkpoint" (a fingerprint, 16
// hex digits), "compute" ("int8" or "f32"), and of every block "blocks.N.cache" as "KEYS/VALUES" in the names
// of cache_storage_name(), or "KEYS rotated/VALUES" (Options::rotates). Tensors:
//
//   tokens           I32 [tokens]
//   logits           F32 [vocabulary]: behind the last token; [0] where they are not known
//   blocks.N.pages   U8 [pages, CacheShape::page_bytes()]: as they lie in memory (kernels/kv_cache.h)
//   blocks.N.recent_keys, blocks.N.recent_values
//                    F16 [kv_heads, recent, head_dim]: those that wait to be packed; recent is 0 in a format
//                    that is not packed
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "optiq/base/result.h"
#include "optiq/engine/engine.h"

namespace optiq::engine {

/// "f32", "f16", "bf16", "int8"; a packed one by its bits.
std::string_view cache_storage_name(kernels::cpu::CacheStorage storage);

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
