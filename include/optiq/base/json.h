// JSON that came from outside: parsed with limits, read with types, every error naming the file and the key.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "optiq/base/result.h"

namespace optiq {

/// Keeps the order of keys, so that what we write back reads as it was.
using Json = nlohmann::ordered_json;

/// What a key that appears twice in one object means: the later value counts (as in Python), or an error.
enum class DuplicateKeys { last_counts, refused };

/// Parses text; nesting deeper than 128 and malformed text are bad_input, naming `where` and the place. Time
/// is linear in the text, whatever it holds.
Result<Json> parse_json(std::string_view text, std::string_view where,
                        DuplicateKeys duplicate_keys = DuplicateKeys::last_counts);

/// parse_json of a file's content (at most 1 GiB).
Result<Json> read_json_file(const std::filesystem::path& path);

/// Text for people and for diff: a container on one line where it nests at most one deeper, else a member a
/// line, indented by two spaces; a newline at the end. Doubles read back exactly; text that is no UTF-8 is
/// written with replacement characters.
std::string format_json(const Json& json);

/// A typed view of one object; `where` (a file's name, then the path of keys) begins every error message.
class JsonReader {
 public:
  JsonReader(const Json& json, std::string where) : json_(&json), where_(std::move(where)) {}

  /// Required members. A missing key or a value of another type (a fraction for an integer, a negative for an
  /// unsigned, a non-finite number) is bad_input.
  [[nodiscard]] Result<std::int64_t> integer(std::string_view key) const;
  [[nodiscard]] Result<double> number(std::string_view key) const;
  [[nodiscard]] Result<std::string> string(std::string_view key) const;
  [[nodiscard]] Result<bool> boolean(std::string_view key) const;
  [[nodiscard]] Result<JsonReader> object(std::string_view key) const;
  /// The array under `key`, as it is.
  [[nodiscard]] Result<const Json*> array(std::string_view key) const;

  /// As above, with a value for a key that is missing or null.
  [[nodiscard]] Result<std::int64_t> integer_or(std::string_view key, std::int64_t fallback) const;
  [[nodiscard]] Result<double> number_or(std::string_view key, double fallback) const;
  [[nodiscard]] Result<std::string> string_or(std::string_view key, std::string_view fallback) const;
  [[nodiscard]] Result<bool> boolean_or(std::string_view key, bool fallback) const;

  [[nodiscard]] bool has(std::string_view key) const;
  [[nodiscard]] const Json& json() const { return *json_; }
  [[nodiscard]] const std::string& where() const { return where_; }

 private:
  [[nodiscard]] Result<const Json*> member(std::string_view key, std::string_view expected) const;
  const Json* json_;
  std::string where_;
};

}  // namespace optiq
