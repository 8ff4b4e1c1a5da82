#include "optiq/runtime/generate.h"

#include <algorithm>
#include <chrono>

#include "backend.h"

namespace optiq::runtime {
namespace {

using Clock = std::chrono::steady_clock;

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

Session::Session(model::Model model, io::Tokenizer tokenizer, const engine::Options& options)
    : backend_(make_backend(std::move(model), options)), tokenizer_(std::move(tokenizer)) {}
Session::~Session() = default;
Session::Session(Session&&) noexcept = default;

void Session::reset() {
  history_.resize(backend_->truncate(0));
}

void Session::keep_prefix(std::span<const std::int32_t> tokens) {
  const auto common = std::ranges::mismatch(tokens, history_);
  auto kept = static_cast<std::size_t>(common.in1 - tokens.begin());
  const bool is_known = kept == history_.size() && !backend_->logits().empty();
  if (kept == tokens.size() && kept > 0 && !is_known) --kept;
  history_.resize(backend_->truncate(kept));
}

Status Session::save(const std::filesystem::path& path) const {
  return backend_->save(path, history_);
}

Status Session::restore(const std::filesystem::path& path) {
  OPTIQ_TRY(history_, backend_->restore(path));
  return {};
}

/// Runs tokens through the model and returns the logits behind the last.
Result<std::span<const float>> Session::feed(std::span<const std::int32_t> tokens) {
  OPTIQ_TRY(const auto logits, backend_->feed(tokens));
  history_.insert(history_.end(), tokens.begin(), tokens.end());
  return logits;
}

/// Generates into `generation` from the logits behind the prompt, and says why it stopped.
Result<StopReason> Session::decode(std::span<const float> logits, const GenerationOptions& options,
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
    if (!fits(history_.size() + 1, backend_->model().config())) return StopReason::context_full;
    OPTIQ_TRY(logits, feed({&token, 1}));
  }
  return StopReason::max_tokens;
}

Result<Generation> Session::generate(std::span<const std::int32_t> prompt, const GenerationOptions& options,
                                     const OnText& on_text) {
  OPTIQ_CHECK(check_sampling(options.sampling));
  OPTIQ_CHECK(check_prompt(prompt, history_.size(), backend_->model().config()));
  const auto start = Clock::now();
  OPTIQ_CHECK(feed(prompt));
  const double seconds = seconds_since(start);
  OPTIQ_TRY(Generation generation, go_on(options, on_text));
  generation.prompt_tokens = static_cast<std::int64_t>(prompt.size());
  generation.prefill_seconds = seconds;
  return generation;
}

Result<Generation> Session::go_on(const GenerationOptions& options, const OnText& on_text) {
  OPTIQ_CHECK(check_sampling(options.sampling));
  if (backend_->logits().empty())
    return fail(ErrorCode::bad_input, "prompt: expected at least one token to go on behind");
  Generation generation;
  io::StreamDecoder decoder(tokenizer_);
  OPTIQ_TRY(generation.reason, decode(backend_->logits(), options, on_text, decoder, generation));
  OPTIQ_TRY(const std::string rest, decoder.finish());
  if (!rest.empty() && on_text && generation.reason != StopReason::cancelled) on_text(rest);
  return generation;
}

}  // namespace optiq::runtime
