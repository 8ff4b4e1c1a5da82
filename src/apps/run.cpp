#include <atomic>
#include <csignal>
#include <cstdio>
#include <iostream>

#include "engine_options.h"
#include "optiq/runtime/generate.h"
#include "verbs.h"

namespace optiq::apps {
namespace {

std::atomic<bool> interrupted = false;

void on_interrupt(int) {
  interrupted = true;
}

/// What run and chat have in common.
struct Arguments {
  std::string model, prompt, system;
  bool raw = false;
  runtime::GenerationOptions options;
  EngineArguments engine;

  /// The conversation before the user's first word.
  [[nodiscard]] Json first_messages() const {
    Json messages = Json::array();
    if (!system.empty()) messages.push_back({{"role", "system"}, {"content", system}});
    return messages;
  }
};

void add_generation_options(CLI::App* verb, runtime::GenerationOptions& options) {
  verb->add_option("--max-tokens", options.max_tokens, "Tokens to generate at most")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->add_option("--temperature", options.sampling.temperature, "0: always the likeliest token")
      ->capture_default_str();
  verb->add_option("--top-k", options.sampling.top_k, "Keep the k likeliest tokens (0: all)")
      ->capture_default_str();
  verb->add_option("--top-p", options.sampling.top_p, "Keep the likeliest tokens up to this probability")
      ->capture_default_str();
  verb->add_option("--min-p", options.sampling.min_p, "Drop tokens below this share of the likeliest's")
      ->capture_default_str();
  verb->add_option("--repetition-penalty", options.sampling.repetition_penalty, "1: none")
      ->capture_default_str();
  verb->add_option("--seed", options.sampling.seed, "Of sampling")->capture_default_str();
}

void add_common_options(CLI::App* verb, Arguments& args) {
  verb->add_option("model", args.model, "Model folder")->required();
  verb->add_option("--system", args.system, "System message");
  add_generation_options(verb, args.options);
  add_engine_options(verb, args.engine);
}

Result<runtime::Session> open_session(const std::string& folder, const EngineArguments& args,
                                      const Console& console) {
  OPTIQ_TRY(auto model, model::Model::open(folder));
  OPTIQ_TRY(auto tokenizer, io::Tokenizer::open(folder));
  OPTIQ_TRY(const auto options, args.options_for(folder));
  if (!console.quiet) std::fputs(planned_cache_line(options).c_str(), stderr);
  return runtime::Session(std::move(model), std::move(tokenizer), options);
}

/// The prompt through the chat template where there is one, otherwise as it is.
Result<std::vector<std::int32_t>> prompt_tokens(const io::Tokenizer& tokenizer, const Json& messages,
                                                const std::string& raw, bool use_template) {
  if (!use_template || !tokenizer.has_chat_template()) return tokenizer.encode(raw, true);
  OPTIQ_TRY(const std::string text, tokenizer.apply_chat_template(messages, true));
  return tokenizer.encode(text, false);
}

std::string speed_line(const runtime::Generation& generation) {
  return fmt::format("[prompt {} tokens, {:.1f} tokens/s; generated {} tokens, {:.1f} tokens/s]\n",
                     generation.prompt_tokens, generation.prefill_tokens_per_second(),
                     generation.tokens.size(), generation.decode_tokens_per_second());
}

runtime::OnText printer(const Console& console, std::string& text) {
  return [&console, &text](std::string_view piece) {
    text += piece;
    if (!console.json) std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
    return !interrupted.load();
  };
}

/// One turn: the whole conversation is rendered, and what the session does not hold yet is fed.
Status chat_turn(Console& console, runtime::Session& session, Json& messages,
                 const runtime::GenerationOptions& options) {
  const io::Tokenizer& tokenizer = session.tokenizer();
  const std::string raw = messages.back()["content"].get<std::string>();
  OPTIQ_TRY(const auto all, prompt_tokens(tokenizer, messages, raw, true));
  const auto& held = session.history();
  const bool continues = tokenizer.has_chat_template() && held.size() < all.size() &&
                         std::equal(held.begin(), held.end(), all.begin());
  if (!continues && tokenizer.has_chat_template()) session.reset();
  const auto fresh = std::span(all).subspan(continues ? held.size() : 0);
  std::string text;
  OPTIQ_TRY(const auto generation, session.generate(fresh, options, printer(console, text)));
  messages.push_back({{"role", "assistant"}, {"content", text}});
  console.print("\n");
  if (!console.quiet) std::fputs(speed_line(generation).c_str(), stderr);
  return {};
}

}  // namespace

void add_run(VerbTable& verbs) {
  auto args = std::make_shared<Arguments>();
  CLI::App* verb = verbs.add("run", "Generate text from a prompt");
  add_common_options(verb, *args);
  verb->add_option("prompt", args->prompt, "What to say to the model")->required();
  verb->add_flag("--raw", args->raw, "Continue the prompt as it is, without the chat template");
  verbs.on_chosen(verb, [args](Console& console) -> Status {
    OPTIQ_TRY(auto session, open_session(args->model, args->engine, console));
    Json messages = args->first_messages();
    messages.push_back({{"role", "user"}, {"content", args->prompt}});
    OPTIQ_TRY(const auto prompt, prompt_tokens(session.tokenizer(), messages, args->prompt, !args->raw));
    std::signal(SIGINT, on_interrupt);
    std::string text;
    OPTIQ_TRY(const auto generation, session.generate(prompt, args->options, printer(console, text)));
    console.print("\n");
    if (!console.quiet) std::fputs(speed_line(generation).c_str(), stderr);
    console.print_json({{"text", text},
                        {"tokens", generation.tokens},
                        {"stop_reason", runtime::stop_reason_name(generation.reason)},
                        {"prompt_tokens", generation.prompt_tokens},
                        {"generated_tokens", generation.tokens.size()},
                        {"prefill_tokens_per_second", generation.prefill_tokens_per_second()},
                        {"decode_tokens_per_second", generation.decode_tokens_per_second()}});
    return {};
  });
}

void add_chat(VerbTable& verbs) {
  auto args = std::make_shared<Arguments>();
  args->options = {.max_tokens = 1024, .sampling = {.temperature = 0.7, .top_p = 0.95}};
  CLI::App* verb = verbs.add("chat", "Talk with a model; an empty line or end of input ends");
  add_common_options(verb, *args);
  verbs.on_chosen(verb, [args](Console& console) -> Status {
    OPTIQ_TRY(auto session, open_session(args->model, args->engine, console));
    Json messages = args->first_messages();
    std::signal(SIGINT, on_interrupt);
    std::string line;
    console.print("> ");
    while (std::getline(std::cin, line) && !line.empty()) {
      messages.push_back({{"role", "user"}, {"content", line}});
      interrupted = false;
      OPTIQ_CHECK(chat_turn(console, session, messages, args->options));
      console.print("> ");
    }
    console.print_json({{"messages", messages}});
    return {};
  });
}

}  // namespace optiq::apps
