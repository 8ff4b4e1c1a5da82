// A compiled chat template, and where the files of a checkpoint keep it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "bridge.h"
#include "optiq/base/json.h"

namespace optiq::io {

/// Immutable; any number of threads may render at the same time.
class ChatTemplate {
 public:
  /// bad_input naming `where` and the line for a malformed template.
  static Result<ChatTemplate> compile(std::string_view source, std::string_view where);

  /// Renders over the members of the object `variables`.
  [[nodiscard]] Result<std::string> render(const Json& variables) const;

 private:
  ChatTemplate(bridge::TemplateHandle handle, std::string where)
      : handle_(std::move(handle)), where_(std::move(where)) {}

  bridge::TemplateHandle handle_;
  std::string where_;
};

struct TemplateSource {
  std::string text;
  std::string where;  ///< the file
};

/// chat_template.jinja, else "chat_template" of tokenizer_config.json: a string, or a list of
/// {"name","template"} of which "default" counts. nullopt where there is none; bad_input where it has another
/// form.
Result<std::optional<TemplateSource>> find_chat_template(const std::filesystem::path& folder,
                                                         const JsonReader& tokenizer_config);

/// The variables that `transformers` gives a template: the messages (an array of objects, else bad_input), no
/// tools, no documents, the special tokens by name; those in `variables` come last and win.
Result<Json> chat_variables(const Json& messages, bool add_generation_prompt, const Json& special_tokens,
                            const Json& variables);

}  // namespace optiq::io
