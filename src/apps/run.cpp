#include <atomic>
#include <csignal>
#include <cstdio>
#include <iostream>

#include "engine_options.h"
#include "optiq/runtime/generate.h"
#include "prompt_cache_options.h"
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
  PromptCacheArguments prompt_cache;

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
  add_prompt_cache_options(verb, args.prompt_cache);
}

Result<runtime::Session> open_session(const Arguments& args, const Console& console) {
  OPTIQ_TRY(auto model, model::Model::open(args.model));
  OPTIQ_TRY(auto tokenizer, io::Tokenizer::open(args.model));
  OPTIQ_TRY(const auto options, args.engine.options_for(args.model));
  OPTIQ_CHECK(runtime::check_cache(model, options));
  if (!console.quiet) std::fputs(planned_cache_line(options).c_str(), stderr);
  runtime::Session session(std::move(model), std::move(tokenizer), options);
  OPTIQ_CHECK(args.prompt_cache.load(session));
  return session;
}

/// The prompt through the chat template where there is one, otherwise as it is.
Result<std::vector<std::int32_t>> prompt_tokens(const io::Tokenizer& tokenizer, const Json& messages,
                                                const std::string& raw, bool use_template) {
  if (!use_template || !tokenizer.has_chat_template()) return tokenizer.encode(raw, true);
  OPTIQ_TRY(const std::string text, tokenizer.apply_chat_template(messages, true));
  return tokenizer.encode(text, false);
}

std::string speed_line(const runtime::Generation& generation) {
  const std::string cached = generation.cached_tokens > 0
                                 ? fmt::format(" and {} from the cache", generation.cached_tokens)
                                 : std::string();
  return fmt::format("[prompt {} tokens{}, {:.1f} tokens/s; generated {} tokens, {:.1f} tokens/s]\n",
                     generation.prompt_tokens, cached, generation.prefill_tokens_per_second(),
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

/// One turn: the whole conversation is rendered, and what the session does not hold yet is fed. Without a
/// chat template the words of a later turn are fed as they are.
Status chat_turn(Console& console, runtime::Session& session, Json& messages, const Arguments& args,
                 bool is_first) {
  const io::Tokenizer& tokenizer = session.tokenizer();
  const std::string raw = messages.back()["content"].get<std::string>();
  OPTIQ_TRY(const auto all, prompt_tokens(tokenizer, messages, raw, true));
  std::string text;
  const auto answer = [&]() -> Result<runtime::Generation> {
    const auto print = printer(console, text);
    if (!is_first && !tokenizer.has_chat_template()) return session.generate(all, args.options, print);
    const PromptCacheArguments none;
    return (is_first ? args.prompt_cache : none).begin(session, all, args.options, print);
  };
  OPTIQ_TRY(const auto generation, answer());
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
    OPTIQ_TRY(auto session, open_session(*args, console));
    Json messages = args->first_messages();
    messages.push_back({{"role", "user"}, {"content", args->prompt}});
    OPTIQ_TRY(const auto prompt, prompt_tokens(session.tokenizer(), messages, args->prompt, !args->raw));
    std::signal(SIGINT, on_interrupt);
    std::string text;
    OPTIQ_TRY(const auto generation,
              args->prompt_cache.begin(session, prompt, args->options, printer(console, text)));
    OPTIQ_CHECK(args->prompt_cache.finish(session));
    console.print("\n");
    if (!console.quiet) std::fputs(speed_line(generation).c_str(), stderr);
    console.print_json({{"text", text},
                        {"tokens", generation.tokens},
                        {"stop_reason", runtime::stop_reason_name(generation.reason)},
                        {"prompt_tokens", generation.cached_tokens + generation.prompt_tokens},
                        {"cached_tokens", generation.cached_tokens},
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
    OPTIQ_TRY(auto session, open_session(*args, console));
    Json messages = args->first_messages();
    std::signal(SIGINT, on_interrupt);
    std::string line;
    bool is_first = true;
    console.print("> ");
    while (std::getline(std::cin, line) && !line.empty()) {
      messages.push_back({{"role", "user"}, {"content", line}});
      interrupted = false;
      OPTIQ_CHECK(chat_turn(console, session, messages, *args, is_first));
      is_first = false;
      console.print("> ");
    }
    if (!is_first) OPTIQ_CHECK(args->prompt_cache.finish(session));
    console.print_json({{"messages", messages}});
    return {};
  });
}

}  // namespace optiq::apps
