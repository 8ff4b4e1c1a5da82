#include "backend.h"

#include <algorithm>
#include <vector>

#include "graph_cache.h"
#include "optiq/engine/prompt_cache.h"

namespace optiq::runtime {
namespace {

namespace mx = model::mx;

class EngineBackend : public Backend {
 public:
  EngineBackend(model::Model model, const engine::Options& options) : engine_(std::move(model), options) {}

  Result<std::span<const float>> feed(std::span<const std::int32_t> tokens) override {
    return engine_.feed(tokens);
  }
  std::size_t truncate(std::size_t tokens) override {
    engine_.truncate(tokens);
    return engine_.tokens();
  }
  [[nodiscard]] std::span<const float> logits() const override { return engine_.logits(); }
  Status save(const std::filesystem::path& path, std::span<const std::int32_t> tokens) const override {
    return engine::write_prompt_cache(path, engine_, tokens);
  }
  Result<std::vector<std::int32_t>> restore(const std::filesystem::path& path) override {
    return engine::read_prompt_cache(path, engine_);
  }
  [[nodiscard]] const model::Model& model() const override { return engine_.model(); }

 private:
  engine::Engine engine_;
};

std::vector<kernels::cpu::CacheFormat> formats_of(const model::Model& model, const engine::Options& options) {
  std::vector<kernels::cpu::CacheFormat> formats;
  for (std::int64_t i = 0; i < model.config().layers; ++i)
    formats.push_back(options.cache_of(static_cast<std::size_t>(i)));
  return formats;
}

bool on_cpu() {
  return mx::default_device() == mx::Device::cpu;
}

class GraphBackend : public Backend {
 public:
  GraphBackend(model::Model model, const engine::Options& options)
      : model_(std::move(model)),
        formats_(formats_of(model_, options)),
        cache_(model_.make_cache(formats_)) {}

  Result<std::span<const float>> feed(std::span<const std::int32_t> tokens) override {
    try {
      return feed_passes(tokens);
    } catch (const std::bad_alloc&) {
      return fail(ErrorCode::out_of_resources, "decoding: not enough memory");
    } catch (const std::exception& error) {
      return fail(ErrorCode::internal, "decoding: {}", error.what());
    }
  }
  std::size_t truncate(std::size_t tokens) override {
    const auto held = static_cast<std::size_t>(cache_.front().tokens);
    if (tokens >= held) return held;
    logits_.clear();
    if (sees_released(tokens)) {
      cache_ = model_.make_cache(formats_);
      return 0;
    }
    for (model::LayerCache& layer : cache_) model::truncate(layer, static_cast<int>(tokens));
    return tokens;
  }
  [[nodiscard]] std::span<const float> logits() const override { return logits_; }
  Status save(const std::filesystem::path& path, std::span<const std::int32_t> tokens) const override {
    return write_graph_cache(path, model_, {cache_, logits_, tokens});
  }
  Result<std::vector<std::int32_t>> restore(const std::filesystem::path& path) override {
    return read_graph_cache(path, model_, cache_, logits_);
  }
  [[nodiscard]] const model::Model& model() const override { return model_; }

 private:
  /// Whether what follows so many tokens sees some that a window has let go of.
  [[nodiscard]] bool sees_released(std::size_t tokens) const {
    for (std::size_t i = 0; i < cache_.size(); ++i) {
      const std::int64_t window = model_.config().window(static_cast<std::int64_t>(i));
      if (cache_[i].released > std::max<std::int64_t>(0, static_cast<std::int64_t>(tokens) + 1 - window))
        return true;
    }
    return false;
  }

  Result<std::span<const float>> feed_passes(std::span<const std::int32_t> tokens) {
    const model::Pass pass{.cache = &cache_};
    std::vector<mx::array> last;
    for (std::size_t first = 0; first < tokens.size(); first += engine::kPassTokens) {
      const auto part = tokens.subspan(first, std::min(engine::kPassTokens, tokens.size() - first));
      OPTIQ_TRY(const mx::array hidden, hidden_of(part, pass));
      const int count = static_cast<int>(part.size());
      last = {mx::slice(hidden, {0, count - 1, 0}, {1, count, hidden.shape(2)})};
      OPTIQ_CHECK(model::evaluate(last));
    }
    const mx::array logits = mx::astype(mx::flatten(model_.head(last.front(), pass)), mx::float32);
    OPTIQ_CHECK(model::evaluate({logits}));
    logits_.assign(logits.data<float>(), logits.data<float>() + logits.size());
    return std::span<const float>(logits_);
  }

  /// Behind the last block. Of several tokens, or where caches grow, block by block: one block's activations
  /// and its old buffers are there at a time.
  Result<mx::array> hidden_of(std::span<const std::int32_t> tokens, const model::Pass& pass) {
    const int count = static_cast<int>(tokens.size());
    const bool at_once =
        count == 1 && cache_.front().tokens % static_cast<int>(kernels::cpu::kCachePage) != 0;
    mx::array hidden = model_.embed(mx::array(tokens.data(), {1, count}, mx::int32), pass);
    for (std::int64_t layer = 0; layer < model_.config().layers; ++layer) {
      hidden = model_.block(layer, hidden, pass);
      if (at_once) continue;
      OPTIQ_CHECK(model::evaluate({hidden}));
      OPTIQ_CHECK(settle(cache_[static_cast<std::size_t>(layer)]));
    }
    OPTIQ_CHECK(model::evaluate({hidden}));
    for (const model::LayerCache& layer : cache_) OPTIQ_CHECK(settle(layer));
    return hidden;
  }

  /// What the pass left behind is packed now: attention has let go of the pages, so they change in place.
  static Status settle(const model::LayerCache& layer) {
    return layer.is_packed() ? model::evaluate(layer.arrays()) : Status{};
  }

  model::Model model_;
  std::vector<kernels::cpu::CacheFormat> formats_;  ///< of each block
  model::KvCache cache_;
  std::vector<float> logits_;
};

}  // namespace

std::unique_ptr<Backend> make_backend(model::Model model, const engine::Options& options) {
  if (on_cpu()) return std::make_unique<EngineBackend>(std::move(model), options);
  return make_graph_backend(std::move(model), options);
}

std::unique_ptr<Backend> make_graph_backend(model::Model model, const engine::Options& options) {
  return std::make_unique<GraphBackend>(std::move(model), options);
}

Status check_cache(const model::Model& model, const engine::Options& options) {
  return on_cpu() ? Status{} : check_graph_cache(model, options);
}

Status check_graph_cache(const model::Model& model, const engine::Options& options) {
  if (options.rotate_keys)
    return fail(ErrorCode::usage, "KV cache: keys are rotated (--kv-rotate) on a CPU only");
  for (const auto& format : formats_of(model, options))
    OPTIQ_CHECK(model::check_cache_format(format, model.config().head_dim));
  return {};
}

}  // namespace optiq::runtime
