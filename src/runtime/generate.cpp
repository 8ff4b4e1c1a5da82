#include "optiq/runtime/generate.h"

#include <algorithm>
#include <chrono>

namespace optiq::runtime {
namespace {

namespace mx = model::mx;
using Clock = std::chrono::steady_clock;

/// Prompt tokens of one forward pass: bounds the activations of a long prompt.
constexpr std::size_t kPrefillTokens = 512;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Whether the model has a position left behind so many tokens.
bool fits(std::size_t tokens, const model::ModelConfig& config) {
  return config.max_positions <= 0 || static_cast<std::int64_t>(tokens) < config.max_positions;
}

Status check_prompt(std::span<const std::int32_t> prompt, std::size_t held,
                    const model::ModelConfig& config) {
  if (prompt.empty()) return fail(ErrorCode::bad_input, "prompt: expected at least one token");
  for (const std::int32_t token : prompt) {
    if (token < 0 || token >= config.vocabulary) {
      return fail(ErrorCode::bad_input, "prompt: token {} is outside the model's vocabulary of {}", token,
                  config.vocabulary);
    }
  }
  if (!fits(held + prompt.size(), config)) {
    return fail(ErrorCode::bad_input, "prompt: expected fewer than the model's {} positions, got {}",
                config.max_positions, held + prompt.size());
  }
  return {};
}

}  // namespace

std::string_view stop_reason_name(StopReason reason) {
  switch (reason) {
    case StopReason::end_of_sequence:
      return "end_of_sequence";
    case StopReason::max_tokens:
      return "max_tokens";
    case StopReason::context_full:
      return "context_full";
    case StopReason::cancelled:
      return "cancelled";
  }
  return "";
}

double Generation::prefill_tokens_per_second() const {
  return prefill_seconds > 0 ? static_cast<double>(prompt_tokens) / prefill_seconds : 0;
}

double Generation::decode_tokens_per_second() const {
  return decode_seconds > 0 && tokens.size() > 1 ? static_cast<double>(tokens.size() - 1) / decode_seconds
                                                 : 0;
}

Session::Session(model::Model model, io::Tokenizer tokenizer)
    : model_(std::move(model)), tokenizer_(std::move(tokenizer)), cache_(model_.make_cache()) {}

void Session::reset() {
  cache_ = model_.make_cache();
  history_.clear();
}

/// Runs tokens through the model and returns the logits behind the last.
Result<std::vector<float>> Session::feed(std::span<const std::int32_t> tokens) {
  const model::Pass pass{.cache = &cache_};
  std::vector<mx::array> last;
  for (std::size_t first = 0; first < tokens.size(); first += kPrefillTokens) {
    const auto part = tokens.subspan(first, std::min(kPrefillTokens, tokens.size() - first));
    const int count = static_cast<int>(part.size());
    mx::array hidden = model_.embed(mx::array(part.data(), {1, count}, mx::int32), pass);
    for (std::int64_t layer = 0; layer < model_.config().layers; ++layer)
      hidden = model_.block(layer, hidden, pass);
    last = {mx::slice(hidden, {0, count - 1, 0}, {1, count, hidden.shape(2)})};
    OPTIQ_CHECK(model::evaluate(last));
  }
  const mx::array logits = mx::astype(mx::flatten(model_.head(last.front(), pass)), mx::float32);
  OPTIQ_CHECK(model::evaluate({logits}));
  history_.insert(history_.end(), tokens.begin(), tokens.end());
  return std::vector<float>(logits.data<float>(), logits.data<float>() + logits.size());
}

/// Generates into `generation` from the logits behind the prompt, and says why it stopped.
Result<StopReason> Session::decode(std::vector<float> logits, const GenerationOptions& options,
                                   const OnText& on_text, io::StreamDecoder& decoder,
                                   Generation& generation) {
  Sampler sampler(options.sampling);
  const auto& ends = tokenizer_.eos_tokens();
  const auto start = Clock::now();
  while (static_cast<std::int64_t>(generation.tokens.size()) < options.max_tokens) {
    const std::int32_t token = sampler.next(logits, history_);
    if (std::ranges::find(ends, token) != ends.end()) return StopReason::end_of_sequence;
    generation.tokens.push_back(token);
    generation.decode_seconds = seconds_since(start);
    OPTIQ_TRY(const std::string piece, decoder.push(token));
    if (!piece.empty() && on_text && !on_text(piece)) return StopReason::cancelled;
    if (!fits(history_.size() + 1, model_.config())) return StopReason::context_full;
    OPTIQ_TRY(logits, feed({&token, 1}));
  }
  return StopReason::max_tokens;
}

Result<Generation> Session::generate(std::span<const std::int32_t> prompt, const GenerationOptions& options,
                                     const OnText& on_text) {
  OPTIQ_CHECK(check_sampling(options.sampling));
  OPTIQ_CHECK(check_prompt(prompt, history_.size(), model_.config()));
  Generation generation;
  generation.prompt_tokens = static_cast<std::int64_t>(prompt.size());
  const auto start = Clock::now();
  OPTIQ_TRY(std::vector<float> logits, feed(prompt));
  generation.prefill_seconds = seconds_since(start);
  io::StreamDecoder decoder(tokenizer_);
  OPTIQ_TRY(generation.reason, decode(std::move(logits), options, on_text, decoder, generation));
  OPTIQ_TRY(const std::string rest, decoder.finish());
  if (!rest.empty() && on_text && generation.reason != StopReason::cancelled) on_text(rest);
  return generation;
}

}  // namespace optiq::runtime
