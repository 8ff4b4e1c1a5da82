#include "backend.h"

#include <algorithm>
#include <vector>

namespace optiq::runtime {
namespace {

namespace mx = model::mx;

class EngineBackend : public Backend {
 public:
  EngineBackend(model::Model model, const engine::Options& options) : engine_(std::move(model), options) {}

  Result<std::span<const float>> feed(std::span<const std::int32_t> tokens) override {
    return engine_.feed(tokens);
  }
  void reset() override { engine_.truncate(0); }
  [[nodiscard]] const model::Model& model() const override { return engine_.model(); }

 private:
  engine::Engine engine_;
};

class GraphBackend : public Backend {
 public:
  explicit GraphBackend(model::Model model) : model_(std::move(model)), cache_(model_.make_cache()) {}

  Result<std::span<const float>> feed(std::span<const std::int32_t> tokens) override {
    const model::Pass pass{.cache = &cache_};
    std::vector<mx::array> last;
    for (std::size_t first = 0; first < tokens.size(); first += engine::kPassTokens) {
      const auto part = tokens.subspan(first, std::min(engine::kPassTokens, tokens.size() - first));
      const int count = static_cast<int>(part.size());
      mx::array hidden = model_.embed(mx::array(part.data(), {1, count}, mx::int32), pass);
      for (std::int64_t layer = 0; layer < model_.config().layers; ++layer)
        hidden = model_.block(layer, hidden, pass);
      last = {mx::slice(hidden, {0, count - 1, 0}, {1, count, hidden.shape(2)})};
      OPTIQ_CHECK(model::evaluate(last));
    }
    const mx::array logits = mx::astype(mx::flatten(model_.head(last.front(), pass)), mx::float32);
    OPTIQ_CHECK(model::evaluate({logits}));
    logits_.assign(logits.data<float>(), logits.data<float>() + logits.size());
    return std::span<const float>(logits_);
  }
  void reset() override { cache_ = model_.make_cache(); }
  [[nodiscard]] const model::Model& model() const override { return model_; }

 private:
  model::Model model_;
  model::KvCache cache_;
  std::vector<float> logits_;
};

}  // namespace

std::unique_ptr<Backend> make_backend(model::Model model, const engine::Options& options) {
  if (mx::default_device() == mx::Device::cpu)
    return std::make_unique<EngineBackend>(std::move(model), options);
  return std::make_unique<GraphBackend>(std::move(model));
}

}  // namespace optiq::runtime
