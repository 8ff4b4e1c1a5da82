// A GGUF tensor to the bytes of a checkpoint's; private to the import.
#pragma once

#include <vector>

#include "optiq/io/gguf_import.h"

namespace optiq::io {

/// Dequantizes, puts interleaved rows back in order and rounds to the target's dtype, on the library's
/// threads. bad_input naming the tensor, row and column of the first weight that is NaN, infinite or too
/// large for the dtype.
Result<std::vector<std::byte>> convert_gguf_tensor(const GgufImportedTensor& tensor,
                                                   const std::string& where);

}  // namespace optiq::io
