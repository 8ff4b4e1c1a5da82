// The checks that quantized_linear and quantized_embedding share.
#pragma once

#include <string_view>

#include "optiq/kernels/ops.h"

namespace optiq::kernels {

/// Throws unless the three tensors are one matrix of a format that MLX knows. Returns its in_features.
int check_quantized(std::string_view op, const QuantizedWeight& weight);

}  // namespace optiq::kernels
