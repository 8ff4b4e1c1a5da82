#include <algorithm>
#include <memory>
#include <mutex>

#include "cpu_ops.h"
#include "optiq/base/threads.h"
#include "optiq/kernels/cpu.h"
#include "primitive.h"

namespace optiq::kernels::cpu {
namespace {

/// Angles, and what they are of.
struct Table {
  std::vector<float> frequencies;
  std::size_t offset, tokens;
  float magnitude;
  RopeAngles angles = {};

  [[nodiscard]] bool is_for(const std::vector<float>& f, std::size_t first, std::size_t count,
                            float m) const {
    return first == offset && count == tokens && m == magnitude && f == frequencies;
  }
};

/// All layers of a model turn by the same table, so the last one is kept.
std::shared_ptr<const Table> table_for(std::vector<float> frequencies, std::size_t offset, std::size_t tokens,
                                       float magnitude) {
  static auto& mutex = *new std::mutex;
  static auto& last = *new std::shared_ptr<const Table>;
  const std::lock_guard lock(mutex);
  if (last && last->is_for(frequencies, offset, tokens, magnitude)) return last;
  auto table = std::make_shared<Table>(Table{std::move(frequencies), offset, tokens, magnitude});
  table->angles.fill(table->frequencies, offset, tokens, magnitude);
  last = table;
  return table;
}

struct Turn {
  int offset;
  float magnitude;
  float direction;  ///< 1 turns forward, −1 back
};

/// in: x (or dy), inverse frequencies.
void turn(const Arrays& in, Arrays& out, const Turn& t) {
  const auto size = [&](int axis) { return static_cast<std::size_t>(in[0].shape(axis)); };
  const std::size_t tokens = size(2), width = size(3), n = in[1].size();
  const float* frequencies = in[1].data<float>();
  const auto table =
      table_for({frequencies, frequencies + n}, static_cast<std::size_t>(t.offset), tokens, t.magnitude);
  const float* x = in[0].data<float>();
  float* y = out[0].data<float>();
  parallel_for(size(0) * size(1) * tokens, 64, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      const std::size_t at = row * width, angle = row % tokens * n;
      kernels().rotate(x + at, &table->angles.cosine[angle], &table->angles.sine[angle], t.direction, n,
                       y + at);
      std::copy(x + at + 2 * n, x + at + width, y + at + 2 * n);
    }
  });
}

mx::array turned(const mx::array& x, const mx::array& inverse_frequencies, const Turn& t) {
  const auto vjp = [t](const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                       const Arrays&) -> Arrays {
    if (argnums != std::vector<int>{0})
      throw std::invalid_argument("rope: inverse_frequencies: has no gradient");
    return {turned(cotangents[0], primals[1], {t.offset, t.magnitude, -t.direction})};
  };
  return make_array({"rope", [t](const Arrays& in, Arrays& out) { turn(in, out, t); }, vjp}, x.shape(),
                    {x, inverse_frequencies});
}

}  // namespace

mx::array rope(const mx::array& x, const mx::array& inverse_frequencies, int offset, float magnitude) {
  return turned(x, inverse_frequencies, {offset, magnitude, 1.0f});
}

}  // namespace optiq::kernels::cpu
