// Compiled with this instruction set's flags (src/kernels/CMakeLists.txt).
#if defined(__x86_64__)

#include "table.inc"

namespace optiq::kernels::cpu {

const KernelTable avx2_kernels = make_table("avx2", {32, 9, 32, 12, 9, 192});

}  // namespace optiq::kernels::cpu

#endif
