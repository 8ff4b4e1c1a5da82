// Reads a decoder's weights out of a checkpoint.
#pragma once

#include "optiq/io/checkpoint.h"
#include "optiq/model/config.h"
#include "optiq/model/weights.h"

namespace optiq::model {

/// Nothing for those that weights and caches do not have.
std::optional<mx::Dtype> mlx_dtype(DType dtype);

/// An array over the tensor's bytes. No copy on CPU unless they are misaligned for their dtype; the array
/// keeps the mapping alive. bad_input (naming the tensor) for a dtype that MLX lacks or an extent beyond
/// int32.
Result<mx::array> map_tensor(const io::TensorView& tensor);

/// bad_input names the tensor, what the configuration expects and what the file holds.
Result<Weights> load_weights(const io::Checkpoint& checkpoint, const ModelConfig& config);

}  // namespace optiq::model
