// Compiled with this instruction set's flags (src/kernels/CMakeLists.txt).
#if defined(__x86_64__)

#include "table.inc"

namespace optiq::kernels::cpu {

const KernelTable avx512vnni256_kernels = make_table("avx512vnni256", {13, 9, 14, 9, 9, 13});

}  // namespace optiq::kernels::cpu

#endif
