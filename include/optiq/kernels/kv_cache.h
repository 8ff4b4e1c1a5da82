// Keys and values of one decoder block on CPU, and attention over them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "optiq/base/result.h"

namespace optiq::kernels::cpu {

/// How cached keys or values are stored. int8: a scale for each head and token, max|x|/127. packedN: N bits,
/// asymmetric, in groups that have a scale and a bias in f16 each: keys a channel of kCacheChunk tokens
/// (their outliers sit in channels), values kCacheGroup channels of a token (Liu et al. 2024, KIVI, arXiv
/// 2402.02750).
enum class CacheStorage { f32, f16, bf16, int8, packed3, packed4, packed5, packed6, packed8 };

/// Of a packed storage; 0 for the others.
constexpr int packed_bits(CacheStorage storage) {
  constexpr int kBits[]{0, 0, 0, 0, 3, 4, 5, 6, 8};
  return kBits[static_cast<int>(storage)];
}

/// The packed storage of so many bits, f16 for 16; nothing for other numbers.
constexpr std::optional<CacheStorage> storage_of_bits(int bits) {
  for (const CacheStorage storage : {CacheStorage::packed3, CacheStorage::packed4, CacheStorage::packed5,
                                     CacheStorage::packed6, CacheStorage::packed8}) {
    if (packed_bits(storage) == bits) return storage;
  }
  return bits == 16 ? std::optional(CacheStorage::f16) : std::nullopt;
}

/// Of one that is not packed.
constexpr std::size_t cache_bytes_per_element(CacheStorage storage) {
  return storage == CacheStorage::f32 ? 4 : storage == CacheStorage::int8 ? 1 : 2;
}

/// Keys stand in blocks of so many tokens, [head_dim][kCacheBlock], so that scores need no sum across lanes.
inline constexpr std::size_t kCacheBlock = 16;
/// Memory grows by pages of so many tokens; nothing that is stored in one ever moves.
inline constexpr std::size_t kCachePage = 256;
/// Tokens are packed so many at a time, and at least as many of the newest stay in f16.
inline constexpr std::size_t kCacheChunk = 64;
/// Channels of one token's packed values that share a scale and a bias.
inline constexpr std::size_t kCacheGroup = 64;
/// A packed tile: so many steps (channels of keys, tokens of values) of kCacheBlock lanes (tokens of keys,
/// channels of values). Each lane's steps are a stream of bits, the lowest first, of 32-bit words.
inline constexpr std::size_t kCacheSteps = 32;

/// Keys and values may be stored apart.
struct CacheFormat {
  CacheStorage keys = CacheStorage::f16, values = CacheStorage::f16;

  constexpr CacheFormat() = default;
  constexpr CacheFormat(CacheStorage both) : keys(both), values(both) {}
  constexpr CacheFormat(CacheStorage of_keys, CacheStorage of_values) : keys(of_keys), values(of_values) {}

  [[nodiscard]] constexpr bool is_packed() const { return packed_bits(keys) > 0 || packed_bits(values) > 0; }
  /// What is packed waits in f16, so beside it only f16 is left unpacked.
  [[nodiscard]] constexpr bool is_valid() const {
    const auto fits = [](CacheStorage s) { return packed_bits(s) > 0 || s == CacheStorage::f16; };
    return !is_packed() || (fits(keys) && fits(values));
  }
  friend constexpr bool operator==(const CacheFormat&, const CacheFormat&) = default;
};

struct CacheShape {
  std::size_t kv_heads = 0, head_dim = 0;
  CacheFormat format = {};
  std::size_t window = 0;  ///< no query will ask for more of the last tokens, itself included; 0: for all

  /// Of one page: keys and values of all heads, their scales and biases.
  [[nodiscard]] std::size_t page_bytes() const;
  /// LayerCache::bytes() once so many tokens were stored and settled, in passes of any length; as if there
  /// were no window.
  [[nodiscard]] std::size_t bytes(std::size_t tokens) const;
  /// The most that LayerCache::bytes() was, settled, on the way to so many tokens in passes of at most
  /// `pass_tokens` each: bytes(tokens), or less where there is a window.
  [[nodiscard]] std::size_t most_bytes(std::size_t tokens, std::size_t pass_tokens) const;
  /// The most that a pass of so many tokens takes beside that, until they are settled.
  [[nodiscard]] std::size_t pass_bytes(std::size_t tokens) const;
};

/// What a cache of this storage gives back of one head's keys or values, x and y: [tokens][head_dim]. As in a
/// packed cache, whole chunks of kCacheChunk tokens from the first on are packed (and rounded to f16 once
/// more), and the last tokens, fewer than a chunk, are in f16. `storage`: packed or f16.
enum class CachePart { keys, values };
void round_as_cached(CachePart part, CacheStorage storage, const float* x, std::size_t tokens,
                     std::size_t head_dim, float* y);

/// Up to kCachePage tokens of one head, as they are stored. Unpacked keys: blocks [head_dim][kCacheBlock];
/// values: [count][head_dim]; int8 with a scale (f32) a token. Packed: chunks of kCacheChunk tokens
/// (src/kernels/cpu/packed_cache.h), `count` a multiple of them.
struct CacheSegment {
  std::size_t begin = 0, count = 0;  ///< tokens
  CacheFormat format = {};
  const std::byte *keys = nullptr, *values = nullptr;
  const float *key_scales = nullptr, *value_scales = nullptr;  ///< int8 only
};

/// What a settled cache holds. Little-endian, the same on every machine; need not be aligned.
struct CacheContent {
  std::size_t tokens = 0;
  std::span<const std::byte> pages;  ///< whole pages, page_bytes() each; the window let go of those before
  /// Of the newest tokens, which wait to be packed: f16 [kv_heads][recent][head_dim]; else empty.
  std::span<const std::byte> recent_keys, recent_values;
};

/// Pages of keys and values; in a packed format the newest tokens wait in f16 in front of them. Not safe to
/// change from several threads.
class LayerCache {
 public:
  /// Throws std::invalid_argument for a format that is not valid.
  explicit LayerCache(const CacheShape& shape);
  /// A cache that goes on as the one did that held `content`. bad_input for sizes that no such cache has.
  static Result<LayerCache> restored(const CacheShape& shape, const CacheContent& content);

  /// Stores `tokens` rows of keys and values ([kv_heads · head_dim] each, `stride` floats apart) behind what
  /// is there; packs nothing. Values beyond f16's range are kept at its largest there and where packed.
  /// First lets go of pages that the window has left more than kCachePage tokens behind.
  void append(const float* keys, const float* values, std::size_t stride, std::size_t tokens);
  /// Packs all but the newest kCacheChunk tokens (up to twice as many less one), where the format asks for
  /// it.
  void settle();
  /// Forgets all but the first `tokens`; their memory stays for the next ones. Back among packed tokens, up
  /// to kCacheChunk − 1 of them are unpacked again, to be packed anew with their next ones. Forgets all
  /// (tokens() is then 0) where `tokens` see some that the window has let go of: never for up to kCachePage
  /// fewer.
  void truncate(std::size_t tokens);

  [[nodiscard]] std::size_t tokens() const { return tokens_; }
  [[nodiscard]] const CacheShape& shape() const { return shape_; }
  /// Of all pages, and of what waits to be packed.
  [[nodiscard]] std::size_t bytes() const;

  /// Segments in the order of their tokens. Those that were let go of have no keys and no values.
  [[nodiscard]] std::size_t segments() const;
  [[nodiscard]] CacheSegment segment(std::size_t index, std::size_t head) const;

  /// The parts of CacheContent: pages that were not let go of (valid until the next change), and of the
  /// tokens that wait to be packed a copy.
  [[nodiscard]] std::vector<std::span<const std::byte>> held_pages() const;
  [[nodiscard]] std::size_t recent_tokens() const { return waiting_tokens(); }
  [[nodiscard]] std::vector<std::byte> recent(CachePart part) const;

 private:
  /// f16; for each head keys and values of `capacity` tokens.
  struct Waiting {
    std::size_t capacity = 0;
    std::unique_ptr<std::byte[]> bytes;
  };
  [[nodiscard]] std::size_t part_bytes(std::size_t tokens) const;
  [[nodiscard]] std::size_t waiting_tokens() const { return tokens_ - stored_; }
  [[nodiscard]] CacheSegment waiting(std::size_t first, std::size_t count, std::size_t head) const;
  [[nodiscard]] CacheSegment page(std::size_t index, std::size_t count, std::size_t head) const;
  void release();
  void reserve_pages(std::size_t tokens);
  void keep_waiting(std::size_t first, std::size_t capacity);
  void store_token(const float* keys, const float* values, std::size_t token);
  void pack_chunk(std::size_t chunk, std::size_t head);
  void unpack_chunk(std::size_t token, std::size_t head);
  void put_recent(const CacheContent& content);

  CacheShape shape_;
  std::size_t tokens_ = 0, stored_ = 0;  ///< stored_: in pages
  std::size_t released_ = 0;             ///< pages
  std::vector<std::unique_ptr<std::byte[]>> pages_;
  Waiting waiting_;
};

/// Attention of the last `queries` tokens in the cache over all before them and themselves (causal).
struct CacheQuery {
  const float* q = nullptr;  ///< [queries][q_heads · head_dim], rows `q_stride` apart
  std::size_t q_stride = 0;
  float* y = nullptr;  ///< [queries][q_heads · head_dim], dense
  std::size_t queries = 0, q_heads = 0;
  float scale = 1;
  std::size_t window = 0;  ///< a query sees so many last tokens, itself included; 0: all
};

/// Working memory of attend(), kept from call to call.
class AttentionMemory {
 public:
  float* reserve(std::size_t count);

 private:
  std::vector<float> values_;
};

/// softmax(scale · q·kᵀ)·v with grouped query heads, page by page with a running maximum and sum (Dao et al.
/// 2022, FlashAttention), f32 throughout. Reads every cached key and value once for each tile of queries and
/// group of heads; packed ones are unpacked kCacheSteps tokens at a time, in the first-level cache. Results
/// do not depend on the number of threads.
void attend(const LayerCache& cache, const CacheQuery& query, AttentionMemory& memory);

}  // namespace optiq::kernels::cpu
