// Compiled with this instruction set's flags (src/kernels/CMakeLists.txt).
#if defined(__x86_64__)

#include "table.inc"

namespace optiq::kernels::cpu {

const KernelTable avxvnni_kernels = make_table("avxvnni", {14, 9, 14, 9, 9, 14});

}  // namespace optiq::kernels::cpu

#endif
