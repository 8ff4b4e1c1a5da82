#include <array>

#include "optiq/model/config.h"

namespace optiq::model {
namespace {

constexpr std::array<Family, 5> kFamilies{{
    {.model_type = "llama"},
    {.model_type = "mistral", .window = WindowRule::obeyed},
    {.model_type = "qwen2", .qkv_bias = true, .window = WindowRule::opt_in},
    {.model_type = "qwen3", .qk_norm = true, .window = WindowRule::opt_in},
    {.model_type = "phi3", .fused_qkv = true, .fused_gate_up = true, .window = WindowRule::obeyed},
}};

}  // namespace

const Family* find_family(std::string_view model_type) {
  for (const Family& family : kFamilies) {
    if (family.model_type == model_type) return &family;
  }
  return nullptr;
}

std::string family_names() {
  std::string names;
  for (const Family& family : kFamilies) {
    if (!names.empty()) names += ", ";
    names += family.model_type;
  }
  return names;
}

}  // namespace optiq::model
