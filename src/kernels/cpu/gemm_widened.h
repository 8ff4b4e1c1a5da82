// bf16 products on machines without bf16 instructions.
#pragma once

#include "gemm.h"

namespace optiq::kernels::cpu {

/// Widens both operands to f32 and multiplies those.
void multiply_widened(const Product<std::uint16_t>& product);

}  // namespace optiq::kernels::cpu
