#include <fmt/format.h>

#include "../check.h"
#include "../composed.h"
#include "../cpu/cpu_ops.h"

namespace optiq::kernels {

mx::array rope(const mx::array& x, const mx::array& inverse_frequencies, int offset, float magnitude) {
  check_activation("rope", "x", x);
  check_rank("rope", "x", x, 4);
  check_rank("rope", "inverse_frequencies", inverse_frequencies, 1);
  check_dtype("rope", "inverse_frequencies", inverse_frequencies, mx::float32);
  if (2 * inverse_frequencies.shape(0) > x.shape(3) || inverse_frequencies.shape(0) == 0) {
    refuse("rope", "inverse_frequencies", fmt::format("1 to {} values", x.shape(3) / 2),
           describe(inverse_frequencies));
  }
  if (offset < 0) refuse("rope", "offset", "0 or more", std::to_string(offset));
  return (on_cpu() ? cpu::rope : composed::rope)(x, inverse_frequencies, offset, magnitude);
}

}  // namespace optiq::kernels
