// --prompt-cache of run and chat: what was computed of a prompt, kept in a file.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "optiq/runtime/generate.h"

namespace optiq::apps {

struct PromptCacheArguments {
  std::string file;  ///< empty: none
  bool whole = false, read_only = false;

  /// Takes what the file holds into a new session, where there is such a file.
  Status load(runtime::Session& session) const;
  /// Answers `prompt`, the whole conversation so far, of which the session may hold a part. Where there is a
  /// file to write for the prompt alone, that is done before the answer begins.
  Result<runtime::Generation> begin(runtime::Session& session, std::span<const std::int32_t> prompt,
                                    const runtime::GenerationOptions& options,
                                    const runtime::OnText& on_text) const;
  /// Writes all that the session holds, where that is asked for.
  Status finish(const runtime::Session& session) const;
};
/// `args` is filled when the command line is parsed and must outlive it.
void add_prompt_cache_options(CLI::App* verb, PromptCacheArguments& args);

}  // namespace optiq::apps
