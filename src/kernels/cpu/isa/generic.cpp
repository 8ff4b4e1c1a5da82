// Compiled with this instruction set's flags (src/kernels/CMakeLists.txt).

#include "table.inc"

namespace optiq::kernels::cpu {

#if defined(__aarch64__)
// Every arm64 machine has NEON. The crossovers were measured on x86-64.
const KernelTable generic_kernels = make_table("neon", {5, 5, 5, 5, 5, 5});
#else
const KernelTable generic_kernels = make_table("generic", {5, 5, 5, 5, 5, 5});
#endif

}  // namespace optiq::kernels::cpu
