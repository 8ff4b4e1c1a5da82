// Compiled with this instruction set's flags (src/kernels/CMakeLists.txt).
#if defined(__x86_64__)

#include "table.inc"

namespace optiq::kernels::cpu {

const KernelTable avx512vnni_kernels = make_table("avx512vnni", {12, 14, 14, 9, 10, 12});

}  // namespace optiq::kernels::cpu

#endif
