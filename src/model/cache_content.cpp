#include "optiq/model/cache_content.h"

#include <algorithm>
#include <cstring>

#include "load_weights.h"
#include "no_throw.h"
#include "packed_cache.h"
#include "slice.h"

namespace optiq::model {
namespace {

using kernels::cpu::CacheShape;
using kernels::cpu::CacheStorage;

/// content_specs' order.
constexpr std::size_t kKeys = 0, kValues = 1, kKeyPages = 2;

/// Rounded up, for any int.
constexpr int steps_of(int tokens, int step) {
  return tokens / step + (tokens % step > 0 ? 1 : 0);
}

/// The number of pages that hold something: a cache that went back has more.
int held_pages(const LayerCache& cache) {
  return steps_of(cache.packed - cache.released, kPage);
}

/// `page`: as [pages, 1, kv_heads, ...] of elements.
void add_pages(std::vector<io::TensorSpec>& specs, const std::string& part, CacheStorage storage,
               std::vector<std::int64_t> page) {
  const std::int64_t bits = kernels::cpu::packed_bits(storage), elements = page.back();
  if (bits == 0) return specs.push_back({part + "_pages", DType::f16, page});
  page.back() = elements * bits / 32;
  specs.push_back({part + "_pages", DType::u32, page});
  page.back() = elements / static_cast<std::int64_t>(kernels::cpu::kCacheGroup);
  specs.push_back({part + "_scales", DType::f16, page});
  specs.push_back({part + "_biases", DType::f16, page});
}

void add_slots(std::vector<mx::array*>& slots, CachePages& pages, CacheStorage storage) {
  slots.push_back(&pages.elements);
  if (kernels::cpu::packed_bits(storage) > 0) slots.insert(slots.end(), {&pages.scales, &pages.biases});
}

/// The arrays in content_specs' order.
std::vector<mx::array*> slots_of(LayerCache& cache) {
  std::vector<mx::array*> slots{&cache.keys, &cache.values};
  if (!cache.is_packed()) return slots;
  add_slots(slots, cache.key_pages, cache.format->keys);
  add_slots(slots, cache.value_pages, cache.format->values);
  return slots;
}

/// The first `count` along an axis, copied: what is read in place on the CPU leaves a GPU's memory for good.
mx::array copied(const mx::array& x, int axis, int count) {
  if (count == 0) return mx::array({});
  const mx::array part = sliced(x, axis, 0, count);
  return mx::contiguous(mx::where(mx::array(true), part, part));
}

/// Tokens in front of those that a query behind `tokens` sees.
int unseen(const CacheShape& shape, int tokens) {
  const auto window = static_cast<int>(shape.window);
  return window > 0 && tokens >= window ? tokens - window + 1 : 0;
}

Status set_plain_counts(LayerCache& cache, const CacheShape& shape, const io::TensorView& keys) {
  const std::int64_t rows = keys.shape[2], released = cache.tokens - rows;
  if (released < 0 || released > unseen(shape, cache.tokens) || released % kCacheStep != 0) {
    return fail(ErrorCode::bad_input,
                "tensor {}: expected {} to {} rows, and a multiple of {} fewer than tokens, got {}",
                keys.name, cache.tokens - unseen(shape, cache.tokens), cache.tokens, kCacheStep, rows);
  }
  cache.released = static_cast<int>(released);
  return {};
}

Status set_packed_counts(LayerCache& cache, const CacheShape& shape, const io::TensorView& keys,
                         const io::TensorView& key_pages) {
  const std::int64_t rows = keys.shape[2], packed = cache.tokens - rows, held = key_pages.shape[0];
  if (rows >= kRecentTokens || packed < 0 || packed % kChunk != 0) {
    return fail(ErrorCode::bad_input,
                "tensor {}: expected fewer than {} of {} rows, and a multiple of {} others, got {}",
                keys.name, kRecentTokens, cache.tokens, kChunk, rows);
  }
  cache.packed = static_cast<int>(packed);
  const int all = steps_of(cache.packed, kPage),
            most_gone = std::min(unseen(shape, cache.tokens), cache.packed) / kPage;
  if (held > all || all - held > most_gone) {
    return fail(ErrorCode::bad_input, "tensor {}: expected {} to {} pages, got {}", key_pages.name,
                all - most_gone, all, held);
  }
  cache.released = (all - static_cast<int>(held)) * kPage;
  return {};
}

/// An array of `shape` with `pieces` parts of `bytes` one after another, zeros behind each.
mx::array filled(const mx::Shape& shape, mx::Dtype dtype, std::span<const std::byte> bytes,
                 std::size_t pieces) {
  std::size_t whole = mx::size_of(dtype);
  for (const int extent : shape) whole *= static_cast<std::size_t>(extent);
  mx::array array(mx::allocator::malloc(whole), shape, dtype);
  auto* const to = array.data<std::byte>();
  if (to == nullptr) throw std::bad_alloc();  // MLX's CPU allocator does not check
  const std::size_t room = whole / pieces, piece = bytes.size() / pieces;
  for (std::size_t i = 0; i < pieces; ++i) {
    std::memcpy(to + i * room, bytes.data() + i * piece, piece);
    std::memset(to + i * room + piece, 0, room - piece);
  }
  return array;
}

/// Keys or values with room for as many rows as append() and settle() leave it.
mx::array filled_rows(const CacheShape& shape, const io::TensorView& view) {
  const int steps = std::max(1, steps_of(static_cast<int>(view.shape[2]), kCacheStep));
  const int capacity = shape.format.is_packed() ? kRecentTokens : steps * kCacheStep;
  const auto heads = static_cast<int>(shape.kv_heads), width = static_cast<int>(shape.head_dim);
  return filled({1, heads, capacity, width}, mlx_dtype(view.dtype).value(), view.bytes, shape.kv_heads);
}

void fill(LayerCache& cache, const CacheShape& shape, std::span<const io::TensorView> content) {
  cache.keys = filled_rows(shape, content[kKeys]);
  cache.values = filled_rows(shape, content[kValues]);
  const auto slots = slots_of(cache);
  for (std::size_t i = kKeyPages; i < slots.size(); ++i) {
    const io::TensorView& view = content[i];
    if (view.elements() == 0) continue;  // as in a cache that has packed nothing, or let go of all of it
    *slots[i] =
        filled(mx::Shape(view.shape.begin(), view.shape.end()), mlx_dtype(view.dtype).value(), view.bytes, 1);
  }
}

}  // namespace

std::vector<io::TensorSpec> content_specs(const CacheShape& shape, std::int64_t rows, std::int64_t pages) {
  const auto heads = static_cast<std::int64_t>(shape.kv_heads), d = static_cast<std::int64_t>(shape.head_dim);
  const std::vector<std::int64_t> buffer{1, heads, rows, d};
  std::vector<io::TensorSpec> specs{{"keys", stored_dtype(shape.format.keys), buffer},
                                    {"values", stored_dtype(shape.format.values), buffer}};
  if (!shape.format.is_packed()) return specs;
  add_pages(specs, "key", shape.format.keys, {pages, 1, heads, d, kPage});
  add_pages(specs, "value", shape.format.values, {pages, 1, heads, kPage, d});
  return specs;
}

std::vector<io::TensorSpec> content_specs(const CacheShape& shape, const LayerCache& cache) {
  return content_specs(shape, cache.rows(), held_pages(cache));
}

std::vector<mx::array> content_of(const LayerCache& cache) {
  LayerCache shared = cache;
  std::vector<mx::array> content;
  for (const mx::array* array : slots_of(shared)) {
    const bool is_buffer = content.size() < kKeyPages;
    content.push_back(is_buffer ? copied(*array, 2, cache.rows()) : copied(*array, 0, held_pages(cache)));
  }
  return content;
}

Result<LayerCache> restored(const CacheShape& shape, int tokens, std::span<const io::TensorView> content) {
  LayerCache cache;
  cache.tokens = tokens;
  cache.format = shape.format;
  const bool is_packed = cache.is_packed();
  OPTIQ_CHECK(is_packed ? set_packed_counts(cache, shape, content[kKeys], content[kKeyPages])
                        : set_plain_counts(cache, shape, content[kKeys]));
  const auto specs = content_specs(shape, cache);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    if (content[i].shape == specs[i].shape) continue;
    return fail(ErrorCode::bad_input, "tensor {}: expected the shape {}, got {}", content[i].name,
                io::shape_text(specs[i].shape), io::shape_text(content[i].shape));
  }
  OPTIQ_CHECK(no_throw("restoring", [&] { fill(cache, shape, content); }));
  return cache;
}

}  // namespace optiq::model
