// Compiled with this instruction set's flags (src/kernels/CMakeLists.txt).
#if defined(__aarch64__)

#define OPTIQ_NEON_I8MM
#include "table.inc"

namespace optiq::kernels::cpu {

/// Not measured: no such machine was at hand.
constexpr PanelsFrom kEstimate{9, 9, 9, 9, 9, 9};

const KernelTable neon_i8mm_kernels = make_table("neon-i8mm", kEstimate);

}  // namespace optiq::kernels::cpu

#endif
