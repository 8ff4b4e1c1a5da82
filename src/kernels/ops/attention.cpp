#include <fmt/format.h>

#include "../check.h"
#include "../composed.h"
#include "../cpu/cpu_ops.h"

namespace optiq::kernels {
namespace {

void check_attention(const mx::array& q, const mx::array& k, const mx::array& v, int window) {
  for (const auto& [name, array] : {std::pair{"q", &q}, std::pair{"k", &k}, std::pair{"v", &v}}) {
    check_rank("attention", name, *array, 4);
    check_activation("attention", name, *array);
  }
  const int batch = q.shape(0), kv_heads = k.shape(1), keys = k.shape(2);
  check_shape("attention", "k", k, {batch, kv_heads, keys, q.shape(3)});
  check_shape("attention", "v", v, {batch, kv_heads, keys, v.shape(3)});
  if (kv_heads == 0 || q.shape(1) % kv_heads != 0) {
    refuse("attention", "q", fmt::format("a multiple of {} heads", kv_heads), describe(q));
  }
  if (keys < q.shape(2)) refuse("attention", "k", fmt::format("{} keys or more", q.shape(2)), describe(k));
  if (window < 0) refuse("attention", "window", "0 or more", std::to_string(window));
}

}  // namespace

mx::array attention(const mx::array& q, const mx::array& k, const mx::array& v, float scale, int window) {
  check_attention(q, k, v, window);
  return (on_cpu() ? cpu::attention : composed::attention)(q, k, v, scale, window);
}

}  // namespace optiq::kernels
