// What packing a block's keys or values in the KV cache changes: the options of the cache, which both
// estimators price.
#pragma once

#include <iterator>

#include "delta_store.h"
#include "optiq/kernels/kv_cache.h"
#include "optiq/profile/profile.h"

namespace optiq::profile {

using kernels::cpu::CachePart;
inline constexpr CachePart kCacheParts[] = {CachePart::keys, CachePart::values};
/// Of a block: all that its keys may have, then its values.
inline constexpr std::size_t kBlockCacheOptions = std::size(kCacheParts) * std::size(kCacheBits);

/// Elements of a sample: the options of all modules, then, where caches are priced, of each block's keys and
/// values.
std::size_t module_options(const std::vector<Subject>& subjects);
std::size_t sample_size(const model::Model& model, const std::vector<Subject>& subjects,
                        const Options& options);
/// Where in a sample those of one begin.
std::size_t cache_offset(const std::vector<Subject>& subjects, std::int64_t layer, CachePart part);

/// x: f32 [1, kv_heads, T, head_dim], evaluated. As it comes out of a cache that packed whole chunks of
/// tokens at so many bits.
model::mx::array as_cached(CachePart part, int bits, const model::mx::array& x);

/// ⟨gradient, as_cached(x) − x⟩ for each of kCacheBits, in double; both as above.
std::vector<float> project_cache(CachePart part, const model::mx::array& x, const model::mx::array& gradient);

}  // namespace optiq::profile
