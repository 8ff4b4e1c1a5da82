// What generation runs on: the engine on a CPU, MLX's graphs on a GPU.
#pragma once

#include <memory>
#include <span>

#include "optiq/engine/engine.h"
#include "optiq/model/model.h"

namespace optiq::runtime {

/// One growing sequence.
class Backend {
 public:
  virtual ~Backend() = default;
  /// Appends tokens; the logits behind the last, f32 [vocabulary], valid until the next call.
  virtual Result<std::span<const float>> feed(std::span<const std::int32_t> tokens) = 0;
  virtual void reset() = 0;
  [[nodiscard]] virtual const model::Model& model() const = 0;
};

/// By MLX's default device; `options` concern the CPU only.
std::unique_ptr<Backend> make_backend(model::Model model, const engine::Options& options);

}  // namespace optiq::runtime
