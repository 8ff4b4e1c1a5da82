// A cache's content for a file, and back.
#include <cstring>

#include "optiq/kernels/kv_cache.h"
#include "packed_cache.h"

namespace optiq::kernels::cpu {
namespace {

constexpr std::size_t kHalfBytes = 2;

std::size_t pages_of(std::size_t tokens) {
  return (tokens + kCachePage - 1) / kCachePage;
}

/// How many tokens wait, by the bytes of their keys and values.
Result<std::size_t> recent_of(const CacheShape& shape, const CacheContent& content) {
  const std::size_t row = shape.kv_heads * shape.head_dim * kHalfBytes;
  const std::size_t bytes = content.recent_keys.size(), recent = bytes / row;
  if (bytes % row != 0 || content.recent_values.size() != bytes) {
    return fail(ErrorCode::bad_input,
                "recent keys and values: expected as many bytes, {} a token, got {} and {}", row, bytes,
                content.recent_values.size());
  }
  if (!shape.format.is_packed()) {
    if (recent == 0) return 0;
    return fail(ErrorCode::bad_input, "{} recent tokens: expected none in a format that is not packed",
                recent);
  }
  const bool fits = recent <= content.tokens && recent < kWaitingTokens;
  if (fits && (content.tokens - recent) % kCacheChunk == 0) return recent;
  return fail(ErrorCode::bad_input,
              "{} recent of {} tokens: expected fewer than {}, and a multiple of {} of the others", recent,
              content.tokens, kWaitingTokens, kCacheChunk);
}

/// How many pages were let go of. Those that a query behind `content.tokens` sees are there.
Result<std::size_t> released_of(const CacheShape& shape, const CacheContent& content, std::size_t stored) {
  const std::size_t page = shape.page_bytes(), all = pages_of(stored), held = content.pages.size() / page;
  if (content.pages.size() % page != 0 || held > all) {
    return fail(ErrorCode::bad_input, "pages: expected at most {} of {} bytes, got {} bytes", all, page,
                content.pages.size());
  }
  const std::size_t seen =
      shape.window > 0 && content.tokens + 1 > shape.window ? content.tokens + 1 - shape.window : 0;
  if ((all - held) * kCachePage <= seen) return all - held;
  return fail(ErrorCode::bad_input, "pages: expected at least {} of them, got {}", all - seen / kCachePage,
              held);
}

}  // namespace

std::vector<std::span<const std::byte>> LayerCache::held_pages() const {
  std::vector<std::span<const std::byte>> held;
  for (std::size_t i = released_; i < pages_of(stored_); ++i)
    held.emplace_back(pages_[i].get(), shape_.page_bytes());
  return held;
}

std::vector<std::byte> LayerCache::recent(CachePart part) const {
  const std::size_t d = shape_.head_dim, count = waiting_tokens();
  std::vector<std::byte> rows(shape_.kv_heads * count * d * kHalfBytes);
  std::byte* to = rows.data();
  for (std::size_t h = 0; h < shape_.kv_heads && count > 0; ++h) {
    const CacheSegment from = waiting(0, count, h);
    for (std::size_t i = 0; i < count * d; ++i, to += kHalfBytes) {
      const std::byte* value = part == CachePart::keys ? from.keys + kHalfBytes * key_index(i / d, i % d, d)
                                                       : from.values + kHalfBytes * i;
      std::memcpy(to, value, kHalfBytes);
    }
  }
  return rows;
}

void LayerCache::put_recent(const CacheContent& content) {
  const std::size_t d = shape_.head_dim, count = waiting_tokens();
  for (std::size_t h = 0; h < shape_.kv_heads; ++h) {
    const CacheSegment to = waiting(0, count, h);
    const std::size_t first = h * count * d * kHalfBytes;
    for (std::size_t i = 0; i < count * d; ++i) {
      std::memcpy(writable(to.keys) + kHalfBytes * key_index(i / d, i % d, d),
                  content.recent_keys.data() + first + kHalfBytes * i, kHalfBytes);
    }
    std::memcpy(writable(to.values), content.recent_values.data() + first, count * d * kHalfBytes);
  }
}

Result<LayerCache> LayerCache::restored(const CacheShape& shape, const CacheContent& content) {
  LayerCache cache(shape);
  OPTIQ_TRY(const std::size_t recent, recent_of(shape, content));
  cache.stored_ = content.tokens - recent;
  OPTIQ_TRY(cache.released_, released_of(shape, content, cache.stored_));
  const std::size_t page = shape.page_bytes();
  cache.pages_.resize(pages_of(cache.stored_));
  for (std::size_t i = cache.released_; i < cache.pages_.size(); ++i) {
    cache.pages_[i] = std::make_unique<std::byte[]>(page);
    std::memcpy(cache.pages_[i].get(), content.pages.data() + (i - cache.released_) * page, page);
  }
  cache.tokens_ = cache.stored_;
  if (shape.format.is_packed() && content.tokens > 0) cache.keep_waiting(0, kWaitingTokens);
  cache.tokens_ = content.tokens;
  if (recent > 0) cache.put_recent(content);
  return cache;
}

}  // namespace optiq::kernels::cpu
