#include "optiq/io/tokenizer.h"

#include <algorithm>
#include <limits>

#include "bridge.h"
#include "chat_template.h"
#include "optiq/base/file.h"

namespace optiq::io {

struct Tokenizer::State {
  bridge::TokenizerHandle handle;
  std::string where;  ///< tokenizer.json's path, for messages
  std::optional<std::int32_t> bos;
  std::vector<std::int32_t> eos;
  Json special_tokens = Json::object();  ///< "bos_token": "<s>", …
  std::optional<Result<ChatTemplate>> chat_template;
};

namespace {

constexpr std::uint64_t kConfigLimitBytes = 1ull << 26;

std::optional<std::int32_t> id_of(const OptiqTokenizer* handle, std::string_view token) {
  std::uint32_t id = 0;
  bool found = false;
  const Status outcome =
      bridge::check(optiq_tokenizer_token_to_id(handle, token.data(), token.size(), &id, &found), "token");
  if (!outcome || !found) return std::nullopt;
  return static_cast<std::int32_t>(id);
}

/// An empty object for a file that is not there.
Result<Json> read_optional_json(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return Json::object();
  OPTIQ_TRY(const std::string text, read_text_file(path, kConfigLimitBytes));
  OPTIQ_TRY(Json json, parse_json(text, path.string()));
  if (!json.is_object())
    return fail(ErrorCode::bad_input, "{}: expected an object, got {}", path.string(), json.type_name());
  return json;
}

/// A token's text in tokenizer_config.json: a string, or an object with "content". nullopt for other types.
std::optional<std::string> token_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_object()) return std::nullopt;
  const auto content = value.find("content");
  if (content == value.end() || !content->is_string()) return std::nullopt;
  return content->get<std::string>();
}

/// Every "…_token" of the configuration, and the named ones under "extra_special_tokens".
Json special_tokens_of(const Json& config) {
  Json tokens = Json::object();
  for (const auto& [key, value] : config.items()) {
    const std::optional<std::string> text = token_text(value);
    if (key.ends_with("_token") && text) tokens[key] = *text;
    if (key == "extra_special_tokens" && value.is_object()) tokens.update(special_tokens_of(value));
  }
  return tokens;
}

Result<std::int32_t> checked_id(const Json& value, const JsonReader& from, std::string_view key) {
  if (!value.is_number_integer() || value < 0 || value > std::numeric_limits<std::int32_t>::max())
    return fail(ErrorCode::bad_input, "{}: \"{}\": expected a token id, got {}", from.where(), key,
                value.dump());
  return value.get<std::int32_t>();
}

/// The ids under `key`: an integer, an array of integers, or nothing.
Result<std::vector<std::int32_t>> token_ids(const JsonReader& from, std::string_view key) {
  std::vector<std::int32_t> ids;
  if (!from.has(key)) return ids;
  const Json& value = from.json().at(std::string(key));
  const Json list = value.is_array() ? value : Json::array({value});
  for (const Json& item : list) {
    OPTIQ_TRY(const std::int32_t id, checked_id(item, from, key));
    ids.push_back(id);
  }
  return ids;
}

void append_new(std::vector<std::int32_t>& ids, std::span<const std::int32_t> more) {
  for (const std::int32_t id : more) {
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
}

/// The three files that say more than tokenizer.json does.
struct Configs {
  Json tokenizer, generation, model;
  std::filesystem::path folder;

  static Result<Configs> read(const std::filesystem::path& folder) {
    Configs configs;
    configs.folder = folder;
    OPTIQ_TRY(configs.tokenizer, read_optional_json(folder / "tokenizer_config.json"));
    OPTIQ_TRY(configs.generation, read_optional_json(folder / "generation_config.json"));
    OPTIQ_TRY(configs.model, read_optional_json(folder / "config.json"));
    return configs;
  }

  [[nodiscard]] JsonReader tokenizer_reader() const {
    return {tokenizer, (folder / "tokenizer_config.json").string()};
  }
  [[nodiscard]] Result<std::vector<std::int32_t>> model_ids(std::string_view key) const {
    OPTIQ_TRY(auto ids, token_ids({generation, (folder / "generation_config.json").string()}, key));
    OPTIQ_TRY(const auto more, token_ids({model, (folder / "config.json").string()}, key));
    append_new(ids, more);
    return ids;
  }
};

std::optional<std::int32_t> named_token(const OptiqTokenizer* handle, const Json& special_tokens,
                                        const char* name) {
  const auto text = special_tokens.find(name);
  if (text == special_tokens.end()) return std::nullopt;
  return id_of(handle, text->get_ref<const std::string&>());
}

Result<std::optional<std::int32_t>> find_bos(const OptiqTokenizer* handle, const Configs& configs,
                                             const Json& special_tokens) {
  if (configs.tokenizer.contains("bos_token")) return named_token(handle, special_tokens, "bos_token");
  OPTIQ_TRY(const auto ids, configs.model_ids("bos_token_id"));
  return ids.empty() ? std::nullopt : std::optional(ids.front());
}

Result<std::vector<std::int32_t>> find_eos(const OptiqTokenizer* handle, const Configs& configs,
                                           const Json& special_tokens) {
  OPTIQ_TRY(auto ids, configs.model_ids("eos_token_id"));
  const auto named = named_token(handle, special_tokens, "eos_token");
  if (named) append_new(ids, {&*named, 1});
  return ids;
}

Result<bridge::TokenizerHandle> read_tokenizer(const std::filesystem::path& file) {
  OPTIQ_TRY(const std::string json, read_text_file(file, 1ull << 30));
  OptiqTokenizer* handle = nullptr;
  OPTIQ_CHECK(bridge::check(optiq_tokenizer_new(json.data(), json.size(), &handle), file.string()));
  return bridge::TokenizerHandle(handle);
}

}  // namespace

Result<Tokenizer> Tokenizer::open(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "tokenizer.json";
  auto state = std::make_shared<State>();
  state->where = file.string();
  OPTIQ_TRY(state->handle, read_tokenizer(file));
  OPTIQ_TRY(const Configs configs, Configs::read(folder));
  state->special_tokens = special_tokens_of(configs.tokenizer);
  OPTIQ_TRY(state->bos, find_bos(state->handle.get(), configs, state->special_tokens));
  OPTIQ_TRY(state->eos, find_eos(state->handle.get(), configs, state->special_tokens));
  OPTIQ_TRY(const auto source, find_chat_template(folder, configs.tokenizer_reader()));
  if (source) state->chat_template.emplace(ChatTemplate::compile(source->text, source->where));
  return Tokenizer(std::move(state));
}

Result<std::vector<std::int32_t>> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  OptiqTokens tokens{};
  OPTIQ_CHECK(bridge::check(
      optiq_tokenizer_encode(state_->handle.get(), text.data(), text.size(), add_special_tokens, &tokens),
      "text to encode"));
  std::vector<std::int32_t> ids(tokens.data, tokens.data + tokens.size);
  optiq_tokens_free(tokens);
  return ids;
}

Result<std::string> Tokenizer::decode(std::span<const std::int32_t> tokens, bool skip_special_tokens) const {
  const auto negative = std::find_if(tokens.begin(), tokens.end(), [](std::int32_t id) { return id < 0; });
  if (negative != tokens.end())
    return fail(ErrorCode::bad_input, "tokens to decode: {} at {} is no token id", *negative,
                negative - tokens.begin());
  const std::vector<std::uint32_t> ids(tokens.begin(), tokens.end());
  OptiqText text{};
  OPTIQ_CHECK(bridge::check(
      optiq_tokenizer_decode(state_->handle.get(), ids.data(), ids.size(), skip_special_tokens, &text),
      "tokens to decode"));
  return bridge::take(text);
}

std::size_t Tokenizer::vocabulary_size() const {
  return optiq_tokenizer_vocabulary_size(state_->handle.get());
}

std::optional<std::int32_t> Tokenizer::token_id(std::string_view token) const {
  return id_of(state_->handle.get(), token);
}

Result<TokenKind> Tokenizer::token_kind(std::int32_t token) const {
  if (token < 0) return fail(ErrorCode::bad_input, "{} is no token id", token);
  OptiqTokenKind kind = OPTIQ_TOKEN_SILENT;
  OPTIQ_CHECK(bridge::check(
      optiq_tokenizer_token_kind(state_->handle.get(), static_cast<std::uint32_t>(token), &kind), "token"));
  return static_cast<TokenKind>(kind);
}

std::optional<std::int32_t> Tokenizer::bos_token() const {
  return state_->bos;
}

const std::vector<std::int32_t>& Tokenizer::eos_tokens() const {
  return state_->eos;
}

bool Tokenizer::has_chat_template() const {
  return state_->chat_template.has_value();
}

Result<std::string> Tokenizer::apply_chat_template(const Json& messages, bool add_generation_prompt,
                                                   const Json& variables) const {
  if (!has_chat_template())
    return fail(ErrorCode::bad_input, "{}: there is no chat template beside it", state_->where);
  const Result<ChatTemplate>& compiled = *state_->chat_template;
  if (!compiled) return tl::unexpected<Error>(compiled.error());
  OPTIQ_TRY(const Json all,
            chat_variables(messages, add_generation_prompt, state_->special_tokens, variables));
  return compiled->render(all);
}

}  // namespace optiq::io
