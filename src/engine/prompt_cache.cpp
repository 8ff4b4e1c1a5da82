#include "optiq/engine/prompt_cache.h"

#include <algorithm>
#include <iterator>

#include "optiq/engine/prompt_cache_file.h"

namespace optiq::engine {
namespace {

namespace cpu = kernels::cpu;
using Bytes = std::span<const std::byte>;

constexpr std::size_t kBlockTensors = 3;

PromptCacheOrigin origin_of(const Engine& engine) {
  const Options& options = engine.options();
  PromptCacheOrigin origin{engine.model(), options.compute == kernels::Compute::int8 ? "int8" : "f32", {}};
  for (std::size_t i = 0; i < engine.caches().size(); ++i)
    origin.caches.push_back(cache_format_name(options.cache_of(i), options.rotates(i)));
  return origin;
}

/// Of one block, for any number of pages and of recent tokens (−1: any), in the order in which they are
/// written.
std::vector<io::TensorSpec> specs_of(std::size_t block, const cpu::CacheShape& shape, std::int64_t pages,
                                     std::int64_t recent) {
  const auto extent = [](std::size_t count) { return static_cast<std::int64_t>(count); };
  const std::vector<std::int64_t> rows{extent(shape.kv_heads), recent, extent(shape.head_dim)};
  return {{block_tensor_name(block, "pages"), DType::u8, {pages, extent(shape.page_bytes())}},
          {block_tensor_name(block, "recent_keys"), DType::f16, rows},
          {block_tensor_name(block, "recent_values"), DType::f16, rows}};
}

std::vector<io::TensorSpec> specs_of(const Engine& engine) {
  std::vector<io::TensorSpec> specs;
  for (std::size_t i = 0; i < engine.caches().size(); ++i) {
    const cpu::LayerCache& cache = engine.caches()[i];
    const auto pages = static_cast<std::int64_t>(cache.held_pages().size());
    const auto recent = static_cast<std::int64_t>(cache.recent_tokens());
    std::ranges::move(specs_of(i, cache.shape(), pages, recent), std::back_inserter(specs));
  }
  return specs;
}

Status write_block(const cpu::LayerCache& cache, io::SafetensorsWriter& writer) {
  for (const Bytes page : cache.held_pages()) OPTIQ_CHECK(writer.append(page));
  OPTIQ_CHECK(writer.append(cache.recent(cpu::CachePart::keys)));
  return writer.append(cache.recent(cpu::CachePart::values));
}

Result<cpu::LayerCache> read_block(const PromptCacheFile& file, std::size_t block,
                                   const cpu::CacheShape& shape, std::size_t tokens) {
  const auto specs = specs_of(block, shape, -1, -1);
  OPTIQ_TRY(const auto pages, file.tensor(specs[0]));
  OPTIQ_TRY(const auto keys, file.tensor(specs[1]));
  OPTIQ_TRY(const auto values, file.tensor(specs[2]));
  auto cache = cpu::LayerCache::restored(shape, {tokens, pages.bytes, keys.bytes, values.bytes});
  if (!cache) return with_context(cache.error(), fmt::format("{}: blocks.{}", file.path(), block));
  pages.file.release(pages.bytes);  // or memory would hold the file beside the cache
  return cache;
}

}  // namespace

Status write_prompt_cache(const std::filesystem::path& path, const Engine& engine,
                          std::span<const std::int32_t> tokens) {
  const auto write_blocks = [&](io::SafetensorsWriter& writer) -> Status {
    for (const cpu::LayerCache& cache : engine.caches()) OPTIQ_CHECK(write_block(cache, writer));
    return {};
  };
  return write_prompt_cache_file(path, origin_of(engine),
                                 {engine.tokens(), tokens, engine.logits(), specs_of(engine), write_blocks});
}

Result<std::vector<std::int32_t>> read_prompt_cache(const std::filesystem::path& path, Engine& engine) {
  const std::size_t blocks = engine.caches().size();
  const auto take = [&](const PromptCacheFile& file, std::size_t tokens,
                        std::vector<float> logits) -> Status {
    std::vector<cpu::LayerCache> caches;
    for (std::size_t i = 0; i < blocks; ++i) {
      OPTIQ_TRY(auto cache, read_block(file, i, engine.caches()[i].shape(), tokens));
      caches.push_back(std::move(cache));
    }
    engine.replace(std::move(caches), std::move(logits));
    return {};
  };
  return read_prompt_cache_file(path, origin_of(engine), blocks * kBlockTensors, take);
}

}  // namespace optiq::engine
