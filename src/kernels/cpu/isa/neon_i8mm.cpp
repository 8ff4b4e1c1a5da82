// Compiled with this instruction set's flags (src/kernels/CMakeLists.txt).
#if defined(__aarch64__)

#define OPTIQ_NEON_I8MM
#include "table.inc"

namespace optiq::kernels::cpu {

const KernelTable neon_i8mm_kernels = make_table("neon-i8mm");

}  // namespace optiq::kernels::cpu

#endif
