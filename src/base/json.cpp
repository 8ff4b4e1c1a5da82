#include "optiq/base/json.h"

#include <algorithm>
#include <cmath>

namespace optiq {
namespace {

tl::unexpected<Error> wrong_type(const std::string& where, std::string_view key, std::string_view expected,
                                 const Json& got) {
  return fail(ErrorCode::bad_input, "{}: \"{}\": expected {}, got {}", where, key, expected, got.type_name());
}

/// 0 for a scalar, else one more than the deepest member, counted no further than `limit`.
int nesting(const Json& json, int limit) {
  if (!json.is_structured() || limit == 0) return 0;
  int deepest = 0;
  for (const Json& member : json) deepest = std::max(deepest, nesting(member, limit - 1));
  return deepest + 1;
}

void append_json(const Json& json, std::size_t indent, std::string& text) {
  if (nesting(json, 3) < 3) {
    text += json.dump(-1, ' ', false, Json::error_handler_t::replace);
    return;
  }
  const bool object = json.is_object();
  const std::string line = "\n" + std::string(indent + 2, ' ');
  std::string_view separator = "";
  text += object ? '{' : '[';
  for (const auto& [key, value] : json.items()) {
    text.append(separator).append(line);
    if (object) text.append(Json(key).dump(-1, ' ', false, Json::error_handler_t::replace)).append(": ");
    append_json(value, indent + 2, text);
    separator = ",";
  }
  text.append("\n").append(indent, ' ');
  text += object ? '}' : ']';
}

}  // namespace

std::string format_json(const Json& json) {
  std::string text;
  append_json(json, 0, text);
  return text + "\n";
}

bool JsonReader::has(std::string_view key) const {
  return json_->is_object() && json_->contains(key) && !(*json_)[std::string(key)].is_null();
}

Result<const Json*> JsonReader::member(std::string_view key, std::string_view expected) const {
  if (!json_->is_object())
    return fail(ErrorCode::bad_input, "{}: expected an object, got {}", where_, json_->type_name());
  const auto found = json_->find(key);
  if (found == json_->end())
    return fail(ErrorCode::bad_input, "{}: \"{}\": expected {}, but it is missing", where_, key, expected);
  return &*found;
}

Result<std::int64_t> JsonReader::integer(std::string_view key) const {
  OPTIQ_TRY(const Json* value, member(key, "an integer"));
  if (value->is_number_unsigned() && value->get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX)) {
    return fail(ErrorCode::bad_input, "{}: \"{}\": {} is too large", where_, key,
                value->get<std::uint64_t>());
  }
  if (!value->is_number_integer()) return wrong_type(where_, key, "an integer", *value);
  return value->get<std::int64_t>();
}

Result<double> JsonReader::number(std::string_view key) const {
  OPTIQ_TRY(const Json* value, member(key, "a number"));
  if (!value->is_number()) return wrong_type(where_, key, "a number", *value);
  const auto number = value->get<double>();
  if (!std::isfinite(number)) return wrong_type(where_, key, "a finite number", *value);
  return number;
}

Result<std::string> JsonReader::string(std::string_view key) const {
  OPTIQ_TRY(const Json* value, member(key, "a string"));
  if (!value->is_string()) return wrong_type(where_, key, "a string", *value);
  return value->get<std::string>();
}

Result<bool> JsonReader::boolean(std::string_view key) const {
  OPTIQ_TRY(const Json* value, member(key, "true or false"));
  if (!value->is_boolean()) return wrong_type(where_, key, "true or false", *value);
  return value->get<bool>();
}

Result<JsonReader> JsonReader::object(std::string_view key) const {
  OPTIQ_TRY(const Json* value, member(key, "an object"));
  if (!value->is_object()) return wrong_type(where_, key, "an object", *value);
  return JsonReader(*value, fmt::format("{}: {}", where_, key));
}

Result<const Json*> JsonReader::array(std::string_view key) const {
  OPTIQ_TRY(const Json* value, member(key, "an array"));
  if (!value->is_array()) return wrong_type(where_, key, "an array", *value);
  return value;
}

Result<std::int64_t> JsonReader::integer_or(std::string_view key, std::int64_t fallback) const {
  return has(key) ? integer(key) : Result<std::int64_t>(fallback);
}

Result<double> JsonReader::number_or(std::string_view key, double fallback) const {
  return has(key) ? number(key) : Result<double>(fallback);
}

Result<std::string> JsonReader::string_or(std::string_view key, std::string_view fallback) const {
  return has(key) ? string(key) : Result<std::string>(std::string(fallback));
}

Result<bool> JsonReader::boolean_or(std::string_view key, bool fallback) const {
  return has(key) ? boolean(key) : Result<bool>(fallback);
}

}  // namespace optiq
