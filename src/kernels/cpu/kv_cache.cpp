#include "optiq/kernels/kv_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "optiq/base/half.h"
#include "optiq/base/threads.h"
#include "packed_cache.h"

namespace optiq::kernels::cpu {
namespace {

constexpr std::size_t kPageChunks = kCachePage / kCacheChunk;

std::size_t page_part(std::size_t chunk_bytes, CacheStorage storage, std::size_t head_dim) {
  return packed_bits(storage) > 0 ? kPageChunks * chunk_bytes
                                  : kCachePage * head_dim * cache_bytes_per_element(storage);
}

/// Where things lie in a page, in bytes.
struct PageLayout {
  PackedLayout packed;
  std::size_t key_part, value_part, scale_start, key_scale_part, value_scale_part;

  explicit PageLayout(const CacheShape& s)
      : packed(s.format, s.head_dim),
        key_part(page_part(packed.keys, s.format.keys, s.head_dim)),
        value_part(page_part(packed.values, s.format.values, s.head_dim)),
        scale_start(s.kv_heads * (key_part + value_part)),
        key_scale_part(scale_part(s.format.keys)),
        value_scale_part(scale_part(s.format.values)) {}

  static std::size_t scale_part(CacheStorage storage) {
    return storage == CacheStorage::int8 ? kCachePage * sizeof(float) : 0;
  }
  [[nodiscard]] std::size_t keys(std::size_t h) const { return h * (key_part + value_part); }
  [[nodiscard]] std::size_t values(std::size_t h) const { return keys(h) + key_part; }
  [[nodiscard]] std::size_t key_scales(std::size_t h) const {
    return scale_start + h * (key_scale_part + value_scale_part);
  }
  [[nodiscard]] std::size_t value_scales(std::size_t h) const { return key_scales(h) + key_scale_part; }
};

/// An infinite value would spoil queries that do not see it: their weight for it is 0, and 0 · ∞ is none.
constexpr float kLargestF16 = 65504;

float scale_of(const float* x, std::size_t n) {
  float top = 0;
  for (std::size_t i = 0; i < n; ++i) top = std::isnan(x[i]) ? x[i] : std::max(top, std::abs(x[i]));
  return top / 127;
}

/// One head's vector into `at(j)` for j < n; with int8 its scale into `scales[slot]`, too.
template <class At>
void store_vector(CacheStorage storage, const float* x, std::size_t n, std::byte* to, float* scales,
                  std::size_t slot, At at) {
  float scale = 0;
  if (storage == CacheStorage::int8) scale = scales[slot] = scale_of(x, n);
  for (std::size_t j = 0; j < n; ++j) {
    if (storage == CacheStorage::int8) {
      const float q = scale > 0 && std::isfinite(scale)
                          ? std::clamp(std::nearbyint(x[j] / scale), -127.0f, 127.0f)
                          : 0.0f;
      to[at(j)] = static_cast<std::byte>(static_cast<std::int8_t>(q));
      continue;
    }
    if (storage == CacheStorage::f32) {
      std::memcpy(to + 4 * at(j), &x[j], sizeof(float));
      continue;
    }
    const std::uint16_t bits = storage == CacheStorage::f16
                                   ? f32_to_f16(std::clamp(x[j], -kLargestF16, kLargestF16))
                                   : f32_to_bf16(x[j]);
    std::memcpy(to + 2 * at(j), &bits, sizeof bits);
  }
}

/// Of keys and values of all heads that wait.
std::size_t waiting_bytes(const CacheShape& shape, std::size_t tokens) {
  return 2 * shape.kv_heads * shape.head_dim * tokens * cache_bytes_per_element(CacheStorage::f16);
}

}  // namespace

std::size_t CacheShape::page_bytes() const {
  return PageLayout(*this).key_scales(kv_heads);
}

std::size_t CacheShape::bytes(std::size_t tokens) const {
  const auto pages = [&](std::size_t stored) {
    return (stored + kCachePage - 1) / kCachePage * page_bytes();
  };
  if (!format.is_packed() || tokens == 0) return pages(tokens);
  const std::size_t packed = tokens < kWaitingTokens ? 0 : (tokens / kCacheChunk - 1) * kCacheChunk;
  return pages(packed) + waiting_bytes(*this, kWaitingTokens);
}

/// A pass lets go of what lies window + kCachePage − 1 tokens and more before its first token, so that at
/// its end pages that begin up to pass_tokens + window + kCachePage − 1 tokens back are there, and both ends
/// lie within pages.
std::size_t CacheShape::most_bytes(std::size_t tokens, std::size_t pass_tokens) const {
  const std::size_t all = bytes(tokens);
  if (window == 0) return all;
  const std::size_t pages = 1 + (pass_tokens + window + 2 * kCachePage - 3) / kCachePage;
  return std::min(all,
                  pages * page_bytes() + (format.is_packed() ? waiting_bytes(*this, kWaitingTokens) : 0));
}

std::size_t CacheShape::pass_bytes(std::size_t tokens) const {
  const std::size_t most = round_up(kWaitingTokens - 1 + tokens, kCacheChunk);
  return format.is_packed() && most > kWaitingTokens ? waiting_bytes(*this, most) : 0;
}

LayerCache::LayerCache(const CacheShape& shape) : shape_(shape) {
  if (!shape.format.is_valid())
    throw std::invalid_argument("KV cache: packed keys or values go with packed or f16 ones only");
}

/// Of keys, or of values, of one head that wait.
std::size_t LayerCache::part_bytes(std::size_t tokens) const {
  return tokens * shape_.head_dim * cache_bytes_per_element(CacheStorage::f16);
}

std::size_t LayerCache::bytes() const {
  const auto pages = static_cast<std::size_t>(
      std::count_if(pages_.begin(), pages_.end(), [](auto& p) { return p != nullptr; }));
  return pages * shape_.page_bytes() + 2 * shape_.kv_heads * part_bytes(waiting_.capacity);
}

std::size_t LayerCache::segments() const {
  return (stored_ + kCachePage - 1) / kCachePage + (waiting_tokens() + kCachePage - 1) / kCachePage;
}

CacheSegment LayerCache::segment(std::size_t index, std::size_t head) const {
  const std::size_t pages = (stored_ + kCachePage - 1) / kCachePage;
  if (index < pages) return page(index, std::min(kCachePage, stored_ - index * kCachePage), head);
  const std::size_t first = (index - pages) * kCachePage;
  return waiting(first, std::min(kCachePage, waiting_tokens() - first), head);
}

CacheSegment LayerCache::page(std::size_t index, std::size_t count, std::size_t head) const {
  CacheSegment segment{.begin = index * kCachePage, .count = count, .format = shape_.format};
  const std::byte* bytes = pages_[index].get();
  if (bytes == nullptr) return segment;
  const PageLayout layout(shape_);
  segment.keys = bytes + layout.keys(head);
  segment.values = bytes + layout.values(head);
  if (shape_.format.keys == CacheStorage::int8)
    segment.key_scales = reinterpret_cast<const float*>(bytes + layout.key_scales(head));
  if (shape_.format.values == CacheStorage::int8)
    segment.value_scales = reinterpret_cast<const float*>(bytes + layout.value_scales(head));
  return segment;
}

/// `first`: of those that wait, a multiple of kCacheBlock.
CacheSegment LayerCache::waiting(std::size_t first, std::size_t count, std::size_t head) const {
  const std::byte* keys = waiting_.bytes.get() + 2 * head * part_bytes(waiting_.capacity);
  return {.begin = stored_ + first,
          .count = count,
          .keys = keys + part_bytes(first),
          .values = keys + part_bytes(waiting_.capacity) + part_bytes(first)};
}

void LayerCache::store_token(const float* keys, const float* values, std::size_t token) {
  const std::size_t d = shape_.head_dim;
  for (std::size_t h = 0; h < shape_.kv_heads; ++h) {
    const CacheSegment segment =
        shape_.format.is_packed() ? waiting(0, 0, h) : page(token / kCachePage, 0, h);
    const std::size_t slot = token - segment.begin;
    store_vector(segment.format.keys, keys + h * d, d, writable(segment.keys), writable(segment.key_scales),
                 slot, [&](std::size_t j) { return key_index(slot, j, d); });
    store_vector(segment.format.values, values + h * d, d, writable(segment.values),
                 writable(segment.value_scales), slot, [&](std::size_t j) { return slot * d + j; });
  }
}

void LayerCache::reserve_pages(std::size_t tokens) {
  const std::size_t pages = (tokens + kCachePage - 1) / kCachePage;
  if (pages_.size() < pages) pages_.resize(pages);
  for (std::size_t i = stored_ / kCachePage; i < pages; ++i) {
    if (pages_[i] == nullptr) pages_[i] = std::make_unique<std::byte[]>(shape_.page_bytes());
  }
}

void LayerCache::release() {
  const std::size_t kept = shape_.window + kCachePage;
  if (shape_.window == 0 || tokens_ + 1 <= kept) return;
  const std::size_t end = std::min(tokens_ + 1 - kept, stored_) / kCachePage;
  for (; released_ < end; ++released_) pages_[released_].reset();
}

/// Makes room for `capacity` waiting tokens; those from `first` on, a multiple of kCacheBlock, move to the
/// front.
void LayerCache::keep_waiting(std::size_t first, std::size_t capacity) {
  const std::size_t kept = waiting_tokens() - first;
  Waiting next{capacity, nullptr};
  if (capacity != waiting_.capacity)
    next.bytes = std::make_unique<std::byte[]>(2 * shape_.kv_heads * part_bytes(capacity));
  std::byte* to = next.bytes ? next.bytes.get() : waiting_.bytes.get();
  for (std::size_t h = 0; h < shape_.kv_heads && kept > 0; ++h) {
    const CacheSegment from = waiting(first, kept, h);
    std::byte* keys = to + 2 * h * part_bytes(capacity);
    std::memmove(keys, from.keys, part_bytes(round_up(kept, kCacheBlock)));
    std::memmove(keys + part_bytes(capacity), from.values, part_bytes(kept));
  }
  if (next.bytes) waiting_ = std::move(next);
}

void LayerCache::append(const float* keys, const float* values, std::size_t stride, std::size_t tokens) {
  release();
  const std::size_t first = tokens_, total = tokens_ + tokens;
  if (!shape_.format.is_packed()) {
    reserve_pages(total);
  } else if (total - stored_ > waiting_.capacity) {
    keep_waiting(0, std::max(kWaitingTokens, round_up(total - stored_, kCacheChunk)));
  }
  parallel_for(tokens, 8, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) store_token(keys + i * stride, values + i * stride, first + i);
  });
  tokens_ = total;
  if (!shape_.format.is_packed()) stored_ = total;
}

/// `chunk`: of those that wait.
void LayerCache::pack_chunk(std::size_t chunk, std::size_t head) {
  const CacheSegment from = waiting(chunk * kCacheChunk, kCacheChunk, head);
  const CacheSegment to = page(from.begin / kCachePage, kCachePage, head);
  const std::size_t slot = from.begin % kCachePage / kCacheChunk;
  const PackedLayout layout(shape_.format, shape_.head_dim);
  pack_keys(shape_.format.keys, from.keys, shape_.head_dim, writable(to.keys) + slot * layout.keys);
  pack_values(shape_.format.values, from.values, shape_.head_dim, writable(to.values) + slot * layout.values);
}

void LayerCache::settle() {
  if (!shape_.format.is_packed() || waiting_tokens() < kWaitingTokens) return;
  const std::size_t chunks = waiting_tokens() / kCacheChunk - 1, packed = chunks * kCacheChunk;
  reserve_pages(stored_ + packed);
  parallel_for(chunks * shape_.kv_heads, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) pack_chunk(i / shape_.kv_heads, i % shape_.kv_heads);
  });
  keep_waiting(packed, kWaitingTokens);
  stored_ += packed;
}

/// The chunk of `token` into the first waiting places; stored_ is its first token already.
void LayerCache::unpack_chunk(std::size_t token, std::size_t head) {
  const CacheSegment from = page(token / kCachePage, kCachePage, head), to = waiting(0, kCacheChunk, head);
  const std::size_t slot = token % kCachePage / kCacheChunk;
  const PackedLayout layout(shape_.format, shape_.head_dim);
  unpack_keys(shape_.format.keys, from.keys + slot * layout.keys, shape_.head_dim, writable(to.keys));
  unpack_values(shape_.format.values, from.values + slot * layout.values, shape_.head_dim,
                writable(to.values));
}

void LayerCache::truncate(std::size_t tokens) {
  if (tokens >= tokens_) return;
  const std::size_t seen = shape_.window > 0 && tokens + 1 > shape_.window ? tokens + 1 - shape_.window : 0;
  if (released_ * kCachePage > seen) {
    std::rotate(pages_.begin(), pages_.begin() + static_cast<std::ptrdiff_t>(released_), pages_.end());
    tokens_ = stored_ = released_ = 0;
    return;
  }
  const bool is_unpacked = tokens < stored_ && shape_.format.is_packed();
  stored_ = shape_.format.is_packed() ? std::min(stored_, tokens / kCacheChunk * kCacheChunk) : tokens;
  tokens_ = tokens;
  if (!is_unpacked || tokens_ == stored_) return;
  for (std::size_t h = 0; h < shape_.kv_heads; ++h) unpack_chunk(stored_, h);
}

}  // namespace optiq::kernels::cpu
