// parse_config and module_format over any JSON: an error, or a configuration whose sizes cannot overflow what
// is computed from them.
#include <cmath>
#include <cstdint>
#include <string_view>

#include "optiq/model/config.h"
#include "require.h"

namespace {

using optiq::ErrorCode;
using optiq::Json;
namespace model = optiq::model;

template <class T>
void require_value_or_bad_input(const optiq::Result<T>& result) {
  OPTIQ_FUZZ_REQUIRE(result ||
                     (result.error().code == ErrorCode::bad_input && !result.error().message.empty()));
}

void require_finite(const std::vector<float>& frequencies) {
  for (const float frequency : frequencies) OPTIQ_FUZZ_REQUIRE(std::isfinite(frequency) && frequency >= 0);
}

void require_sound(const model::ModelConfig& config) {
  OPTIQ_FUZZ_REQUIRE(config.family != nullptr && config.layers > 0 && config.heads % config.kv_heads == 0);
  OPTIQ_FUZZ_REQUIRE(2 * config.rope.inverse_frequencies.size() <= static_cast<std::size_t>(config.head_dim));
  OPTIQ_FUZZ_REQUIRE(std::isfinite(config.rope.magnitude) && config.rope.magnitude > 0);
  require_finite(config.rope.inverse_frequencies);
  require_finite(config.rope.long_inverse_frequencies);
}

void require_modules(const model::ModelConfig& config, const Json& json) {
  const auto modules = model::module_shapes(config);
  for (const auto& module : modules) {
    OPTIQ_FUZZ_REQUIRE(module.out_features > 0 && module.out_features <= INT32_MAX);
    OPTIQ_FUZZ_REQUIRE(module.in_features > 0 && module.in_features <= INT32_MAX);
  }
  require_value_or_bad_input(model::module_format(json, modules.back().name, "fuzz"));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto json = optiq::parse_json({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!json) return 0;
  require_value_or_bad_input(model::module_format(*json, "a.b", "fuzz"));
  const auto config = model::parse_config(*json, "fuzz");
  require_value_or_bad_input(config);
  if (config) {
    require_sound(*config);
    require_modules(*config, *json);
  }
  return 0;
}
