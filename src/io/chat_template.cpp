#include "chat_template.h"

#include <array>

#include "optiq/base/file.h"

namespace optiq::io {
namespace {

/// The names under which messages carry a model's reasoning, the one that templates read first.
constexpr std::array kReasoningKeys{"reasoning_content", "thinking", "reasoning"};

/// `transformers` gives a message's reasoning under both names that templates read.
Json with_reasoning_names(const Json& message) {
  for (const char* key : kReasoningKeys) {
    const auto found = message.find(key);
    if (found == message.end() || found->is_null()) continue;
    Json named = Json::object({{"thinking", *found}});
    named.update(message);
    named["reasoning_content"] = *found;
    return named;
  }
  return message;
}

Result<Json> checked_messages(const Json& messages) {
  if (!messages.is_array())
    return fail(ErrorCode::bad_input, "messages: expected an array, got {}", messages.type_name());
  Json checked = Json::array();
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (!messages[i].is_object()) {
      return fail(ErrorCode::bad_input, "messages[{}]: expected an object, got {}", i,
                  messages[i].type_name());
    }
    checked.push_back(with_reasoning_names(messages[i]));
  }
  return checked;
}

Result<std::optional<std::string>> default_of_list(const Json& list, const std::string& where) {
  std::optional<std::string> source;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const JsonReader entry(list[i], fmt::format("{}: chat_template[{}]", where, i));
    OPTIQ_TRY(const std::string name, entry.string("name"));
    OPTIQ_TRY(std::string text, entry.string("template"));
    if (name == "default") source = std::move(text);
  }
  return source;
}

Result<std::string> serialized(const Json& variables) {
  try {
    return variables.dump();
  } catch (const nlohmann::json::type_error& error) {
    return fail(ErrorCode::bad_input, "messages: a string is not valid UTF-8: {}", error.what());
  }
}

}  // namespace

Result<ChatTemplate> ChatTemplate::compile(std::string_view source, std::string_view where) {
  OptiqTemplate* handle = nullptr;
  constexpr std::string_view name = "chat template";
  OPTIQ_CHECK(bridge::check(
      optiq_template_new(source.data(), source.size(), name.data(), name.size(), &handle), where));
  return ChatTemplate(bridge::TemplateHandle(handle), std::string(where));
}

Result<std::string> ChatTemplate::render(const Json& variables) const {
  OPTIQ_TRY(const std::string text, serialized(variables));
  OptiqText rendered{};
  OPTIQ_CHECK(
      bridge::check(optiq_template_render(handle_.get(), text.data(), text.size(), &rendered), where_));
  return bridge::take(rendered);
}

Result<std::optional<TemplateSource>> find_chat_template(const std::filesystem::path& folder,
                                                         const JsonReader& tokenizer_config) {
  const std::filesystem::path file = folder / "chat_template.jinja";
  std::error_code ignored;
  if (std::filesystem::exists(file, ignored)) {
    OPTIQ_TRY(std::string text, read_text_file(file, 1u << 24));
    return TemplateSource{std::move(text), file.string()};
  }
  if (!tokenizer_config.has("chat_template")) return std::nullopt;
  const Json& given = tokenizer_config.json().at("chat_template");
  std::optional<std::string> text;
  if (given.is_array()) {
    OPTIQ_TRY(text, default_of_list(given, tokenizer_config.where()));
  } else {
    OPTIQ_TRY(text, tokenizer_config.string("chat_template"));
  }
  if (!text) return std::nullopt;
  return TemplateSource{std::move(*text), tokenizer_config.where()};
}

Result<Json> chat_variables(const Json& messages, bool add_generation_prompt, const Json& special_tokens,
                            const Json& variables) {
  Json all = Json::object();
  OPTIQ_TRY(all["messages"], checked_messages(messages));
  all["tools"] = nullptr;
  all["documents"] = nullptr;
  all["add_generation_prompt"] = add_generation_prompt;
  all.update(special_tokens);
  if (!variables.is_object())
    return fail(ErrorCode::bad_input, "template variables: expected an object, got {}",
                variables.type_name());
  all.update(variables);
  return all;
}

}  // namespace optiq::io
