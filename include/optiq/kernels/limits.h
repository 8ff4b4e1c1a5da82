// Loops that do nothing but load a machine's limits, in the instruction set that the kernels run on.
#pragma once

#include <cstddef>

namespace optiq::kernels::cpu {

/// Reads [p, p + bytes), bytes a multiple of 256, asking for what lies `prefetch_bytes` ahead (0: not). The
/// result depends on every byte.
unsigned long long read_all(const void* p, std::size_t bytes, std::size_t prefetch_bytes);

/// `rounds` rounds of independent fused multiply-adds in registers; the multiply-adds that were done.
double spin_f32(std::size_t rounds);

/// Likewise of int8 multiply-adds; 0 where the instruction set has none.
double spin_int8(std::size_t rounds);

}  // namespace optiq::kernels::cpu
