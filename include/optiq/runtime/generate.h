// Text generation: prefill, then one token at a time.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "optiq/engine/engine.h"
#include "optiq/io/tokenizer.h"
#include "optiq/model/model.h"
#include "optiq/runtime/sampler.h"

namespace optiq::runtime {

struct GenerationOptions {
  std::int64_t max_tokens = 256;
  SamplingOptions sampling = {};
};

enum class StopReason { end_of_sequence, max_tokens, context_full, cancelled };
std::string_view stop_reason_name(StopReason reason);

struct Generation {
  std::vector<std::int32_t> tokens;  ///< generated, an end token left out
  StopReason reason = StopReason::max_tokens;
  std::int64_t prompt_tokens = 0;  ///< fed
  std::int64_t cached_tokens = 0;  ///< of the prompt, which the caller knows were there already
  double prefill_seconds = 0;
  double decode_seconds = 0;  ///< of all tokens after the first

  [[nodiscard]] double prefill_tokens_per_second() const;
  [[nodiscard]] double decode_tokens_per_second() const;
};

/// Sees each piece of text as it is complete; false stops the generation.
using OnText = std::function<bool(std::string_view piece)>;

/// Whether the device that generation runs on can cache keys and values so: usage where a GPU cannot
/// (model::check_cache_format). engine::Engine says what a CPU can.
Status check_cache(const model::Model& model, const engine::Options& options);

class Backend;

/// A conversation with one model: the KV cache lives on between calls, so a later prompt only costs its new
/// tokens.
class Session {
 public:
  /// On a GPU the graphs of model.h run; then `options` concern the cache alone. Throws
  /// std::invalid_argument for formats of it that check_cache or engine::Engine refuses.
  Session(model::Model model, io::Tokenizer tokenizer, const engine::Options& options = {});
  ~Session();
  Session(Session&&) noexcept;

  /// Feeds `prompt` (token ids, appended to what the session holds) and generates. Errors: bad_input for an
  /// empty prompt, a token outside the vocabulary, or a prompt that leaves no position free; usage for
  /// impossible sampling options: the session is then as it was. After any other error, reset() it. The last
  /// token of a generation that was cancelled or filled the context is not in the cache.
  Result<Generation> generate(std::span<const std::int32_t> prompt, const GenerationOptions& options,
                              const OnText& on_text);
  /// Generates behind the last token that was fed. Errors as generate(); bad_input where the logits behind it
  /// are not known: nothing was fed since reset(), or keep_prefix() went back.
  Result<Generation> go_on(const GenerationOptions& options, const OnText& on_text);

  /// Forgets everything that was fed.
  void reset();
  /// Forgets what is no prefix of `tokens` (or everything: engine::Engine::truncate), and of a whole prefix
  /// the last token where the logits behind it are not known, so that generate() of what follows the history,
  /// or go_on() where nothing does, answers `tokens`. Packed keys and values among which it goes back are
  /// rounded once more (engine.h).
  void keep_prefix(std::span<const std::int32_t> tokens);

  /// Writes what was fed to a prompt cache, or takes the place of what was fed from one (then history() is
  /// its tokens). Errors: those of engine/prompt_cache.h, on a GPU too.
  Status save(const std::filesystem::path& path) const;
  Status restore(const std::filesystem::path& path);
  /// Tokens in the cache.
  [[nodiscard]] const std::vector<std::int32_t>& history() const { return history_; }
  [[nodiscard]] const io::Tokenizer& tokenizer() const { return tokenizer_; }

 private:
  Result<std::span<const float>> feed(std::span<const std::int32_t> tokens);
  Result<StopReason> decode(std::span<const float> logits, const GenerationOptions& options,
                            const OnText& on_text, io::StreamDecoder& decoder, Generation& generation);

  std::unique_ptr<Backend> backend_;
  io::Tokenizer tokenizer_;
  std::vector<std::int32_t> history_;
};

}  // namespace optiq::runtime
