#include "optiq/io/content_identity.h"

#include <algorithm>

#include "optiq/base/journal.h"

namespace optiq::io {

std::string content_identity(const Checkpoint& checkpoint) {
  constexpr std::size_t kLooked = 4096;
  std::string text = checkpoint.config().dump();
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    text += fmt::format("\n{} {}", name, static_cast<int>(tensor.dtype));
    for (const std::int64_t extent : tensor.shape) text += fmt::format(" {}", extent);
    text += fmt::format(" {:x}", fingerprint(tensor.bytes.first(std::min(tensor.bytes.size(), kLooked))));
  }
  return text;
}

}  // namespace optiq::io
