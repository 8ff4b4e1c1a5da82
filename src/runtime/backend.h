// What generation runs on: the engine on a CPU, MLX's graphs on a GPU.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "optiq/engine/engine.h"
#include "optiq/model/model.h"

namespace optiq::runtime {

/// One growing sequence.
class Backend {
 public:
  virtual ~Backend() = default;
  /// Appends tokens; the logits behind the last, f32 [vocabulary], valid until the next call.
  virtual Result<std::span<const float>> feed(std::span<const std::int32_t> tokens) = 0;
  /// Goes back to the first `tokens`, or to none; says how many are left.
  virtual std::size_t truncate(std::size_t tokens) = 0;
  /// As engine::Engine::logits().
  [[nodiscard]] virtual std::span<const float> logits() const = 0;
  /// As engine::write_prompt_cache and read_prompt_cache; engine and graphs refuse each other's files.
  virtual Status save(const std::filesystem::path& path, std::span<const std::int32_t> tokens) const = 0;
  virtual Result<std::vector<std::int32_t>> restore(const std::filesystem::path& path) = 0;
  [[nodiscard]] virtual const model::Model& model() const = 0;
};

/// By MLX's default device. Throw std::invalid_argument for a cache's format that it cannot have
/// (check_cache); of the options only that concerns a GPU.
std::unique_ptr<Backend> make_backend(model::Model model, const engine::Options& options);
/// The GPU's, also on a CPU.
std::unique_ptr<Backend> make_graph_backend(model::Model model, const engine::Options& options);
/// model::check_cache_format of every block; usage for keys that are to be rotated, too.
Status check_graph_cache(const model::Model& model, const engine::Options& options);

}  // namespace optiq::runtime
