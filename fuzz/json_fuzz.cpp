// parse_json and JsonReader over any bytes: an error or a tree, never a crash; what was parsed, written and
// parsed again is the same tree.
#include <cstdint>
#include <string>
#include <string_view>

#include "optiq/base/json.h"
#include "require.h"

namespace {

using optiq::DuplicateKeys;
using optiq::ErrorCode;
using optiq::Json;
using optiq::JsonReader;

template <class T>
void require_value_or_bad_input(const optiq::Result<T>& result) {
  OPTIQ_FUZZ_REQUIRE(result ||
                     (result.error().code == ErrorCode::bad_input && !result.error().message.empty()));
}

/// Asks every member for every type.
void read_members(const Json& json) {
  const JsonReader reader(json, "fuzz");
  for (const std::string_view missing : {"", "no such key"})
    require_value_or_bad_input(reader.integer(missing));
  if (!json.is_object()) return;
  for (const auto& [key, value] : json.items()) {
    require_value_or_bad_input(reader.integer(key));
    require_value_or_bad_input(reader.number(key));
    require_value_or_bad_input(reader.string(key));
    require_value_or_bad_input(reader.boolean(key));
    require_value_or_bad_input(reader.array(key));
    require_value_or_bad_input(reader.integer_or(key, 1));
    require_value_or_bad_input(reader.number_or(key, 1));
    require_value_or_bad_input(reader.string_or(key, ""));
    require_value_or_bad_input(reader.boolean_or(key, true));
    OPTIQ_FUZZ_REQUIRE(reader.has(key) == !value.is_null());
    const auto object = reader.object(key);
    require_value_or_bad_input(object);
    if (object) read_members(object->json());
  }
}

void require_round_trip(const Json& json) {
  const auto again = optiq::parse_json(json.dump(), "again", DuplicateKeys::refused);
  OPTIQ_FUZZ_REQUIRE(again && *again == json);
  const auto formatted = optiq::parse_json(optiq::format_json(json), "formatted");
  OPTIQ_FUZZ_REQUIRE(formatted && *formatted == json);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto json = optiq::parse_json(text, "fuzz");
  require_value_or_bad_input(json);
  if (json) {
    read_members(*json);
    require_round_trip(*json);
  }
  const auto strict = optiq::parse_json(text, "fuzz", DuplicateKeys::refused);
  OPTIQ_FUZZ_REQUIRE(!strict || (json && *strict == *json));
  return 0;
}
