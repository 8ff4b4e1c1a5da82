// Compiled with this instruction set's flags (src/kernels/CMakeLists.txt).

#include "table.inc"

namespace optiq::kernels::cpu {

#if defined(__aarch64__)
const KernelTable generic_kernels = make_table("neon");  // every arm64 machine has NEON
#else
const KernelTable generic_kernels = make_table("generic");
#endif

}  // namespace optiq::kernels::cpu
