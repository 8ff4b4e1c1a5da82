// Compiled with this instruction set's flags (src/kernels/CMakeLists.txt).
#if defined(__x86_64__)

#include "table.inc"

namespace optiq::kernels::cpu {

const KernelTable avx512_kernels = make_table("avx512", {24, 9, 24, 9, 9, 20});

}  // namespace optiq::kernels::cpu

#endif
