#include "graph_cache.h"

#include <algorithm>
#include <iterator>

#include "optiq/engine/prompt_cache_file.h"
#include "optiq/model/cache_content.h"

namespace optiq::runtime {
namespace {

namespace mx = model::mx;

engine::PromptCacheOrigin origin_of(const model::Model& model, const model::KvCache& cache) {
  engine::PromptCacheOrigin origin{model, "graphs", {}};
  for (const model::LayerCache& layer : cache)
    origin.caches.push_back(engine::cache_format_name(layer.format.value()));
  return origin;
}

kernels::cpu::CacheShape shape_of(const model::Model& model, const model::KvCache& cache, std::size_t block) {
  const model::ModelConfig& config = model.config();
  return {static_cast<std::size_t>(config.kv_heads), static_cast<std::size_t>(config.head_dim),
          cache[block].format.value(),
          static_cast<std::size_t>(config.window(static_cast<std::int64_t>(block)))};
}

std::vector<io::TensorSpec> named(std::vector<io::TensorSpec> specs, std::size_t block) {
  for (io::TensorSpec& spec : specs) spec.name = engine::block_tensor_name(block, spec.name);
  return specs;
}

Status write_block(const model::LayerCache& layer, io::SafetensorsWriter& writer) {
  for (const mx::array& array : model::content_of(layer)) {
    OPTIQ_CHECK(model::evaluate({array}));
    OPTIQ_CHECK(writer.append({array.data<std::byte>(), array.nbytes()}));
  }
  return {};
}

Result<model::LayerCache> read_block(const engine::PromptCacheFile& file,
                                     const std::vector<io::TensorSpec>& specs,
                                     const kernels::cpu::CacheShape& shape, std::size_t tokens) {
  std::vector<io::TensorView> views;
  for (const io::TensorSpec& spec : specs) {
    OPTIQ_TRY(auto view, file.tensor(spec));
    views.push_back(std::move(view));
  }
  auto layer = model::restored(shape, static_cast<int>(tokens), views);
  if (!layer) return with_context(layer.error(), file.path());
  for (const io::TensorView& view : views) view.file.release(view.bytes);  // or memory would hold both
  return layer;
}

}  // namespace

Status write_graph_cache(const std::filesystem::path& path, const model::Model& model,
                         const GraphSequence& sequence) {
  const model::KvCache& cache = sequence.cache;
  const auto held = static_cast<std::size_t>(cache.front().tokens);
  engine::PromptCacheContent content{held, sequence.tokens, sequence.logits, {}, {}};
  for (std::size_t i = 0; i < cache.size(); ++i) {
    std::ranges::move(named(model::content_specs(shape_of(model, cache, i), cache[i]), i),
                      std::back_inserter(content.blocks));
  }
  content.write_blocks = [&](io::SafetensorsWriter& writer) -> Status {
    for (const model::LayerCache& layer : cache) OPTIQ_CHECK(write_block(layer, writer));
    return {};
  };
  return engine::write_prompt_cache_file(path, origin_of(model, cache), std::move(content));
}

Result<std::vector<std::int32_t>> read_graph_cache(const std::filesystem::path& path,
                                                   const model::Model& model, model::KvCache& cache,
                                                   std::vector<float>& logits) {
  std::vector<std::vector<io::TensorSpec>> specs;
  std::size_t tensors = 0;
  for (std::size_t i = 0; i < cache.size(); ++i) {
    specs.push_back(named(model::content_specs(shape_of(model, cache, i), -1, -1), i));
    tensors += specs.back().size();
  }
  const auto take = [&](const engine::PromptCacheFile& file, std::size_t tokens,
                        std::vector<float> read) -> Status {
    model::KvCache blocks;
    for (std::size_t i = 0; i < cache.size(); ++i) {
      OPTIQ_TRY(auto layer, read_block(file, specs[i], shape_of(model, cache, i), tokens));
      blocks.push_back(std::move(layer));
    }
    cache = std::move(blocks);
    logits = std::move(read);
    return {};
  };
  return engine::read_prompt_cache_file(path, origin_of(model, cache), tensors, take);
}

}  // namespace optiq::runtime
