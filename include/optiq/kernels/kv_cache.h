// Keys and values of one decoder block on CPU, and attention over them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace optiq::kernels::cpu {

/// How cached keys and values are stored. int8: a scale for each head and token, max|x|/127.
enum class CacheStorage { f32, f16, bf16, int8 };

constexpr std::size_t cache_bytes_per_element(CacheStorage storage) {
  return storage == CacheStorage::f32 ? 4 : storage == CacheStorage::int8 ? 1 : 2;
}

/// Keys stand in blocks of so many tokens, [head_dim][kCacheBlock], so that scores need no sum across lanes.
inline constexpr std::size_t kCacheBlock = 16;
/// Memory grows by pages of so many tokens; nothing that is stored ever moves.
inline constexpr std::size_t kCachePage = 256;

struct CacheShape {
  std::size_t kv_heads = 0, head_dim = 0;
  CacheStorage storage = CacheStorage::f16;

  /// Of one page: keys and values of all heads and, with int8, their scales (f32).
  [[nodiscard]] std::size_t page_bytes() const;
};

/// A page holds, for each head: keys [kCachePage / kCacheBlock][head_dim][kCacheBlock], values
/// [kCachePage][head_dim], and with int8 behind all of them scales of keys and of values, [kCachePage] f32
/// each. What no token was appended to is zero. Not safe to change from several threads.
class LayerCache {
 public:
  explicit LayerCache(CacheShape shape) : shape_(shape) {}

  /// Stores `tokens` rows of keys and values ([kv_heads · head_dim] each, `stride` floats apart) behind what
  /// is there. Values beyond f16's range are kept at its largest there.
  void append(const float* keys, const float* values, std::size_t stride, std::size_t tokens);
  /// Forgets all but the first `tokens`; their memory stays for the next ones.
  void truncate(std::size_t tokens);

  [[nodiscard]] std::size_t tokens() const { return tokens_; }
  [[nodiscard]] const CacheShape& shape() const { return shape_; }
  /// Of all pages.
  [[nodiscard]] std::size_t bytes() const { return pages_.size() * shape_.page_bytes(); }

  /// Parts of page `page` for one head.
  [[nodiscard]] const std::byte* keys(std::size_t page, std::size_t head) const;
  [[nodiscard]] const std::byte* values(std::size_t page, std::size_t head) const;
  [[nodiscard]] const float* key_scales(std::size_t page, std::size_t head) const;
  [[nodiscard]] const float* value_scales(std::size_t page, std::size_t head) const;

 private:
  void store_token(const float* keys, const float* values, std::size_t token);

  CacheShape shape_;
  std::size_t tokens_ = 0;
  std::vector<std::unique_ptr<std::byte[]>> pages_;
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
/// group of heads. Results do not depend on the number of threads.
void attend(const LayerCache& cache, const CacheQuery& query, AttentionMemory& memory);

}  // namespace optiq::kernels::cpu
