// The bias of linear and quantized_linear.
#pragma once

#include <vector>

#include "primitive.h"

namespace optiq::kernels::cpu {

/// inputs[index] in f32; empty where there are fewer inputs.
std::vector<float> bias_values(const Arrays& inputs, std::size_t index);

/// Σ over rows of dy, in double: f32 [last axis of dy].
mx::array bias_gradient(const mx::array& dy);

}  // namespace optiq::kernels::cpu
