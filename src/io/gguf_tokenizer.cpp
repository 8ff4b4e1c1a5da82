#include "optiq/io/gguf_tokenizer.h"

#include <cmath>

#include "gguf_tokenizer_model.h"
#include "optiq/base/text.h"

namespace optiq::io {
namespace {

constexpr std::string_view kPrefix = "tokenizer.ggml.";

Result<std::optional<std::int64_t>> optional_id(const GgufMetadata& metadata, std::string_view name) {
  const std::string key = fmt::format("{}{}_token_id", kPrefix, name);
  if (!metadata.has(key)) return std::nullopt;
  OPTIQ_TRY(const std::int64_t id, metadata.integer(key));
  return id;
}

Result<std::optional<bool>> optional_flag(const GgufMetadata& metadata, std::string_view name) {
  const std::string key = fmt::format("{}{}", kPrefix, name);
  if (!metadata.has(key)) return std::nullopt;
  OPTIQ_TRY(const bool flag, metadata.boolean(key));
  return flag;
}

Status read_flags(const GgufMetadata& metadata, GgufTokenizerMetadata& read) {
  OPTIQ_TRY(read.bos, optional_id(metadata, "bos"));
  OPTIQ_TRY(read.eos, optional_id(metadata, "eos"));
  OPTIQ_TRY(read.unk, optional_id(metadata, "unknown"));
  OPTIQ_TRY(read.pad, optional_id(metadata, "padding"));
  OPTIQ_TRY(read.add_bos, optional_flag(metadata, "add_bos_token"));
  OPTIQ_TRY(read.add_eos, optional_flag(metadata, "add_eos_token"));
  OPTIQ_TRY(read.add_space_prefix, optional_flag(metadata, "add_space_prefix"));
  return {};
}

Status check_lengths(const GgufTokenizerMetadata& metadata, std::string_view where) {
  const std::size_t tokens = metadata.tokens.size();
  if (!metadata.token_types.empty() && metadata.token_types.size() != tokens) {
    return fail(ErrorCode::bad_input, "{}: {}token_type: expected {} entries, got {}", where, kPrefix, tokens,
                metadata.token_types.size());
  }
  if (metadata.model == "llama" && metadata.scores.size() != tokens) {
    return fail(ErrorCode::bad_input, "{}: {}scores: expected {} entries, got {}", where, kPrefix, tokens,
                metadata.scores.size());
  }
  return {};
}

Status check_types(const GgufTokenizerMetadata& metadata, std::string_view where) {
  for (std::size_t i = 0; i < metadata.token_types.size(); ++i) {
    const std::int64_t type = metadata.token_types[i];
    if (type < 1 || type > 6)
      return fail(ErrorCode::bad_input, "{}: {}token_type[{}]: expected 1 to 6, got {}", where, kPrefix, i,
                  type);
  }
  for (std::size_t i = 0; i < metadata.scores.size(); ++i) {
    if (!std::isfinite(metadata.scores[i]))
      return fail(ErrorCode::bad_input, "{}: {}scores[{}]: expected a finite number", where, kPrefix, i);
  }
  return {};
}

Status check_id(const GgufTokenizerMetadata& metadata, std::optional<std::int64_t> id, std::string_view name,
                std::string_view where) {
  if (!id || (*id >= 0 && static_cast<std::uint64_t>(*id) < metadata.tokens.size())) return {};
  return fail(ErrorCode::bad_input, "{}: {}{}_token_id: expected less than {} tokens, got {}", where, kPrefix,
              name, metadata.tokens.size(), *id);
}

Status check(const GgufTokenizerMetadata& metadata, std::string_view where) {
  OPTIQ_CHECK(check_lengths(metadata, where));
  OPTIQ_CHECK(check_types(metadata, where));
  OPTIQ_CHECK(check_id(metadata, metadata.bos, "bos", where));
  OPTIQ_CHECK(check_id(metadata, metadata.eos, "eos", where));
  OPTIQ_CHECK(check_id(metadata, metadata.unk, "unknown", where));
  return check_id(metadata, metadata.pad, "padding", where);
}

Result<GgufVocabulary> index_tokens(const GgufTokenizerMetadata& metadata, std::string_view where) {
  GgufVocabulary vocabulary;
  for (std::size_t id = 0; id < metadata.tokens.size(); ++id) {
    if (gguf_token_type(metadata, id) == GgufTokenType::unused) continue;
    const auto [found, added] = vocabulary.emplace(metadata.tokens[id], static_cast<std::int64_t>(id));
    if (!added) {
      return fail(ErrorCode::bad_input, "{}: {}tokens: {} and {} are both \"{}\"", where, kPrefix,
                  found->second, id, printable(metadata.tokens[id]));
    }
  }
  return vocabulary;
}

/// {"token": id, …} in the order of ids. Built as a list of members: assigning by key searches all before it.
Json vocabulary_json(const GgufTokenizerMetadata& metadata) {
  Json::object_t members;
  for (std::size_t id = 0; id < metadata.tokens.size(); ++id) {
    if (gguf_token_type(metadata, id) == GgufTokenType::unused) continue;
    members.push_back({metadata.tokens[id], id});
  }
  return members;
}

Json added_tokens(const GgufTokenizerMetadata& metadata) {
  Json added = Json::array();
  for (std::size_t id = 0; id < metadata.tokens.size(); ++id) {
    const GgufTokenType type = gguf_token_type(metadata, id);
    const bool special = type == GgufTokenType::control || type == GgufTokenType::unknown;
    if (!special && type != GgufTokenType::user_defined) continue;
    added.push_back({{"id", id},
                     {"content", metadata.tokens[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", special}});
  }
  return added;
}

const std::string& text_of(const GgufTokenizerMetadata& metadata, std::int64_t id) {
  return metadata.tokens[static_cast<std::size_t>(id)];
}

/// The post-processor's sequence A (and B), with BOS in front and EOS behind where the model wants them.
Json template_of(const GgufTokenizerMetadata& metadata, const char* sequence, int type_id, bool bos,
                 bool eos) {
  const auto special = [&](std::int64_t id) {
    return Json{{"SpecialToken", {{"id", text_of(metadata, id)}, {"type_id", type_id}}}};
  };
  Json parts = Json::array();
  if (bos) parts.push_back(special(*metadata.bos));
  parts.push_back({{"Sequence", {{"id", sequence}, {"type_id", type_id}}}});
  if (eos) parts.push_back(special(*metadata.eos));
  return parts;
}

Json post_processor(const GgufTokenizerMetadata& metadata, bool bos, bool eos) {
  if (!bos && !eos) return nullptr;
  Json specials = Json::object();
  const auto add = [&](std::int64_t id) {
    const std::string& text = text_of(metadata, id);
    specials[text] = {{"id", text}, {"ids", Json::array({id})}, {"tokens", Json::array({text})}};
  };
  if (bos) add(*metadata.bos);
  if (eos) add(*metadata.eos);
  const Json single = template_of(metadata, "A", 0, bos, eos);
  Json pair = single;
  for (const Json& part : template_of(metadata, "B", 1, bos, eos)) pair.push_back(part);
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", specials}};
}

Json config_of(const GgufTokenizerMetadata& metadata, bool bos, bool eos) {
  Json config = {{"add_bos_token", bos}, {"add_eos_token", eos}};
  const auto name = [&](const char* key, std::optional<std::int64_t> id) {
    if (id) {
      config[key] = text_of(metadata, *id);
    } else {
      config[key] = nullptr;
    }
  };
  name("bos_token", metadata.bos);
  name("eos_token", metadata.eos);
  name("unk_token", metadata.unk);
  name("pad_token", metadata.pad);
  config["clean_up_tokenization_spaces"] = false;
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  if (!metadata.chat_template.empty()) config["chat_template"] = metadata.chat_template;
  return config;
}

Result<GgufTokenizerModel> model_of(const GgufTokenizerMetadata& metadata, const GgufVocabulary& vocabulary,
                                    std::string_view where) {
  if (metadata.model == "gpt2") return byte_level_model(metadata, vocabulary, where);
  if (metadata.model == "llama") return sentence_piece_model(metadata, vocabulary, where);
  return fail(ErrorCode::bad_input, "{}: {}model: expected gpt2 or llama, got \"{}\"", where, kPrefix,
              printable(metadata.model));
}

}  // namespace

Result<GgufTokenizerMetadata> read_gguf_tokenizer(const GgufMetadata& metadata) {
  const auto key = [](std::string_view name) { return fmt::format("{}{}", kPrefix, name); };
  GgufTokenizerMetadata read;
  OPTIQ_TRY(read.model, metadata.string(key("model")));
  OPTIQ_TRY(read.pre, metadata.string_or(key("pre"), "default"));
  OPTIQ_TRY(read.tokens, metadata.strings(key("tokens")));
  if (metadata.has(key("scores"))) {
    OPTIQ_TRY(read.scores, metadata.numbers(key("scores")));
  }
  if (metadata.has(key("token_type"))) {
    OPTIQ_TRY(read.token_types, metadata.integers(key("token_type")));
  }
  if (metadata.has(key("merges"))) {
    OPTIQ_TRY(read.merges, metadata.strings(key("merges")));
  }
  OPTIQ_CHECK(read_flags(metadata, read));
  OPTIQ_TRY(read.chat_template, metadata.string_or("tokenizer.chat_template", ""));
  return read;
}

Result<GgufTokenizerFiles> rebuild_gguf_tokenizer(const GgufTokenizerMetadata& metadata,
                                                  std::string_view where) {
  OPTIQ_CHECK(check(metadata, where));
  OPTIQ_TRY(const GgufVocabulary vocabulary, index_tokens(metadata, where));
  OPTIQ_TRY(GgufTokenizerModel parts, model_of(metadata, vocabulary, where));
  const bool bos = metadata.bos && metadata.add_bos.value_or(parts.adds_bos_by_default);
  const bool eos = metadata.eos && metadata.add_eos.value_or(false);
  parts.model["vocab"] = vocabulary_json(metadata);
  GgufTokenizerFiles files;
  files.tokenizer = {{"version", "1.0"},
                     {"truncation", nullptr},
                     {"padding", nullptr},
                     {"added_tokens", added_tokens(metadata)},
                     {"normalizer", std::move(parts.normalizer)},
                     {"pre_tokenizer", std::move(parts.pre_tokenizer)},
                     {"post_processor", post_processor(metadata, bos, eos)},
                     {"decoder", std::move(parts.decoder)},
                     {"model", std::move(parts.model)}};
  files.config = config_of(metadata, bos, eos);
  return files;
}

}  // namespace optiq::io
