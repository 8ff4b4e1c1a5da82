// Decoding on CPU without graphs: one model, one sequence, weights where they lie in the checkpoint's
// mapping.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "optiq/base/result.h"
#include "optiq/kernels/compute.h"
#include "optiq/kernels/kv_cache.h"
#include "optiq/model/model.h"

namespace optiq::engine {

/// Tokens of one forward pass: bounds the activations of a long prompt.
inline constexpr std::size_t kPassTokens = 512;

struct Options {
  /// int8: activations that meet quantized weights are rounded group by group; f32: nothing is rounded but
  /// f32 arithmetic itself.
  kernels::Compute compute = kernels::Compute::int8;
  /// Of keys and values; a packed one keeps the newest 64 to 127 tokens in f16.
  kernels::cpu::CacheFormat cache = {};
  /// One for each block, in place of `cache`; empty: `cache` for all.
  std::vector<kernels::cpu::CacheFormat> block_caches = {};
  /// Mixes the channels of each query and key head (kernels/head_rotation.h) in blocks whose keys are packed:
  /// they lose less there. head_dim must be a power of two.
  bool rotate_keys = false;
  /// Moves the weights into huge pages, a little after each of the first 64 decoded tokens, and lets go of
  /// the mapping's pages: no token waits for a repacking, and resident memory stays that of the weights.
  /// Linux only.
  bool huge_pages = true;

  [[nodiscard]] const kernels::cpu::CacheFormat& cache_of(std::size_t block) const {
    return block_caches.empty() ? cache : block_caches.at(block);
  }
  /// Whether a block's keys are mixed.
  [[nodiscard]] bool rotates(std::size_t block) const {
    return rotate_keys && kernels::cpu::packed_bits(cache_of(block).keys) > 0;
  }
};

/// A sequence that grows. Weights are read where they lie in the checkpoint's mapping, or from huge pages.
/// Not safe to use from several threads; several engines may share a model.
class Engine {
 public:
  /// Throws std::bad_alloc, or std::invalid_argument for a wrong OPTIQ_CPU_ISA, a cache format that is not
  /// valid, block_caches of another number than the model's blocks, or a head_dim that rotate_keys rules out.
  explicit Engine(model::Model model, const Options& options = {});
  ~Engine();
  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;

  /// Appends tokens and returns the logits behind the last, f32 [vocabulary], valid until the next call.
  /// Tokens lie within the vocabulary; the sequence stays within the model's positions (both the caller's to
  /// check). Working memory is that of at most kPassTokens; decoding allocates nothing but a cache page every
  /// kCachePage tokens and, every 1,024, some of attention's working memory. usage for no tokens,
  /// out_of_resources where there is no memory: the sequence is then as it was, or what truncate() leaves of
  /// it.
  Result<std::span<const float>> feed(std::span<const std::int32_t> tokens);
  /// As feed(), in one pass of at most kPassTokens tokens (usage for more), with the logits behind each of
  /// them: [tokens][vocabulary].
  Result<std::span<const float>> feed_all(std::span<const std::int32_t> tokens);

  /// Tokens fed so far.
  [[nodiscard]] std::size_t tokens() const;
  /// The logits behind the last of them, f32 [vocabulary], valid until the next call that is not const; empty
  /// where it was not fed last, or failed.
  [[nodiscard]] std::span<const float> logits() const;
  /// Goes back to the first `tokens`; to none where they see some that a sliding window has let go of, which
  /// up to kCachePage fewer never do. Back among packed tokens, the last up to 63 are unpacked into f16.
  void truncate(std::size_t tokens);
  /// Of the KV cache.
  [[nodiscard]] std::size_t cache_bytes() const;
  /// One a block.
  [[nodiscard]] std::span<const kernels::cpu::LayerCache> caches() const;
  /// Goes on with the sequence whose keys and values `caches` hold: one a block, of the shapes that caches()
  /// have and of as many tokens each. `logits`: those behind its last token, or empty.
  void replace(std::vector<kernels::cpu::LayerCache> caches, std::vector<float> logits);
  [[nodiscard]] const Options& options() const;
  [[nodiscard]] const model::Model& model() const;
  /// Whether the weights are where they will stay.
  [[nodiscard]] bool settled() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace optiq::engine
