// GGUF tensors to f32.
#pragma once

#include <cstddef>
#include <span>

#include "optiq/base/result.h"
#include "optiq/io/gguf_types.h"

namespace optiq::io {

/// Writes the elements of `blocks` to `out`, following the layouts beside GgufTensorType to the bit: every
/// product, sum and difference is rounded to f32 by itself (no fused multiply-add), as ggml's reference does.
/// `out` holds a whole number of blocks' elements and `blocks` exactly their bytes; otherwise, and for a type
/// that is not supported, bad_input. The values may be NaN or infinite where the scales are: callers check.
/// Cost: about one read of `blocks` and one write of `out`.
Status dequantize(GgufTensorType type, std::span<const std::byte> blocks, std::span<float> out);

}  // namespace optiq::io
