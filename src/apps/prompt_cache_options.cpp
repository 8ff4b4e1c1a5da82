#include "prompt_cache_options.h"

#include <filesystem>

namespace optiq::apps {

void add_prompt_cache_options(CLI::App* verb, PromptCacheArguments& args) {
  CLI::Option* file = verb->add_option("--prompt-cache", args.file,
                                       "A file of computed tokens. What of the prompt is in it is not "
                                       "computed again; then it is written for this prompt");
  CLI::Option* all =
      verb->add_flag("--prompt-cache-all", args.whole, "Write it at the end, with what was generated")
          ->needs(file);
  verb->add_flag("--prompt-cache-ro", args.read_only, "Do not write it")->needs(file)->excludes(all);
}

Status PromptCacheArguments::load(runtime::Session& session) const {
  if (file.empty()) return {};
  std::error_code ignored;
  if (!read_only && !std::filesystem::exists(file, ignored)) return {};
  return session.restore(file);
}

Result<runtime::Generation> PromptCacheArguments::begin(runtime::Session& session,
                                                        std::span<const std::int32_t> prompt,
                                                        const runtime::GenerationOptions& options,
                                                        const runtime::OnText& on_text) const {
  session.keep_prefix(prompt);
  const std::size_t held = session.history().size();
  runtime::Generation computed;
  if (held < prompt.size()) {
    runtime::GenerationOptions no_answer = options;
    no_answer.max_tokens = 0;
    OPTIQ_TRY(computed, session.generate(prompt.subspan(held), no_answer, {}));
    if (!file.empty() && !whole && !read_only) OPTIQ_CHECK(session.save(file));
  }
  OPTIQ_TRY(auto generation, session.go_on(options, on_text));
  generation.prompt_tokens = computed.prompt_tokens;
  generation.prefill_seconds = computed.prefill_seconds;
  generation.cached_tokens = static_cast<std::int64_t>(held);
  return generation;
}

Status PromptCacheArguments::finish(const runtime::Session& session) const {
  return whole ? session.save(file) : Status{};
}

}  // namespace optiq::apps
