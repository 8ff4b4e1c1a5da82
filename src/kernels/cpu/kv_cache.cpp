#include "optiq/kernels/kv_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "optiq/base/half.h"
#include "optiq/base/threads.h"

namespace optiq::kernels::cpu {
namespace {

/// Where things lie in a page, in bytes.
struct PageLayout {
  std::size_t element, head, scales;

  explicit PageLayout(const CacheShape& s)
      : element(cache_bytes_per_element(s.storage)),
        head(2 * kCachePage * s.head_dim * element),
        scales(s.kv_heads * head) {}

  [[nodiscard]] std::size_t keys(std::size_t h) const { return h * head; }
  [[nodiscard]] std::size_t values(std::size_t h) const { return h * head + head / 2; }
  [[nodiscard]] std::size_t key_scales(std::size_t h) const {
    return scales + 2 * h * kCachePage * sizeof(float);
  }
  [[nodiscard]] std::size_t value_scales(std::size_t h) const {
    return key_scales(h) + kCachePage * sizeof(float);
  }
};

/// Index of element j of a token's key within the head's keys.
std::size_t key_index(std::size_t token, std::size_t j, std::size_t head_dim) {
  return (token / kCacheBlock * head_dim + j) * kCacheBlock + token % kCacheBlock;
}

/// An infinite value would spoil queries that do not see it: their weight for it is 0, and 0 · ∞ is none.
constexpr float kLargestF16 = 65504;

float scale_of(const float* x, std::size_t n) {
  float top = 0;
  for (std::size_t i = 0; i < n; ++i) top = std::isnan(x[i]) ? x[i] : std::max(top, std::abs(x[i]));
  return top / 127;
}

/// One head's vector into `at(j)` for j < n.
template <class At>
void store_vector(CacheStorage storage, const float* x, std::size_t n, std::byte* to, float scale, At at) {
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

}  // namespace

std::size_t CacheShape::page_bytes() const {
  const PageLayout layout(*this);
  return storage == CacheStorage::int8 ? layout.key_scales(kv_heads) : layout.scales;
}

void LayerCache::store_token(const float* keys, const float* values, std::size_t token) {
  const PageLayout layout(shape_);
  std::byte* page = pages_[token / kCachePage].get();
  const std::size_t slot = token % kCachePage, d = shape_.head_dim;
  for (std::size_t h = 0; h < shape_.kv_heads; ++h) {
    float key_scale = 0, value_scale = 0;
    if (shape_.storage == CacheStorage::int8) {
      key_scale = scale_of(keys + h * d, d);
      value_scale = scale_of(values + h * d, d);
      std::memcpy(page + layout.key_scales(h) + slot * sizeof(float), &key_scale, sizeof(float));
      std::memcpy(page + layout.value_scales(h) + slot * sizeof(float), &value_scale, sizeof(float));
    }
    store_vector(shape_.storage, keys + h * d, d, page + layout.keys(h), key_scale,
                 [&](std::size_t j) { return key_index(slot, j, d); });
    store_vector(shape_.storage, values + h * d, d, page + layout.values(h), value_scale,
                 [&](std::size_t j) { return slot * d + j; });
  }
}

void LayerCache::append(const float* keys, const float* values, std::size_t stride, std::size_t tokens) {
  const std::size_t total = tokens_ + tokens;
  while (pages_.size() * kCachePage < total)
    pages_.push_back(std::make_unique<std::byte[]>(shape_.page_bytes()));
  const std::size_t first = tokens_;
  parallel_for(tokens, 8, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) store_token(keys + i * stride, values + i * stride, first + i);
  });
  tokens_ = total;
}

void LayerCache::truncate(std::size_t tokens) {
  tokens_ = std::min(tokens_, tokens);
}

const std::byte* LayerCache::keys(std::size_t page, std::size_t head) const {
  return pages_[page].get() + PageLayout(shape_).keys(head);
}

const std::byte* LayerCache::values(std::size_t page, std::size_t head) const {
  return pages_[page].get() + PageLayout(shape_).values(head);
}

const float* LayerCache::key_scales(std::size_t page, std::size_t head) const {
  return reinterpret_cast<const float*>(pages_[page].get() + PageLayout(shape_).key_scales(head));
}

const float* LayerCache::value_scales(std::size_t page, std::size_t head) const {
  return reinterpret_cast<const float*>(pages_[page].get() + PageLayout(shape_).value_scales(head));
}

}  // namespace optiq::kernels::cpu
