#include "optiq/io/content_identity.h"

#include "optiq/base/journal.h"

namespace optiq::io {
namespace {

/// Of the first, the middle and the last KiB.
std::uint64_t sample_fingerprint(std::span<const std::byte> bytes) {
  constexpr std::size_t kPart = 1024;
  if (bytes.size() <= 3 * kPart) return fingerprint(bytes);
  std::uint64_t hash = kEmptyFingerprint;
  for (const std::size_t begin : {std::size_t{0}, bytes.size() / 2, bytes.size() - kPart})
    hash = fingerprint(bytes.subspan(begin, kPart), hash);
  return hash;
}

}  // namespace

std::string content_identity(const Checkpoint& checkpoint) {
  std::string text = checkpoint.config().dump();
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    text += fmt::format("\n{} {}", name, static_cast<int>(tensor.dtype));
    for (const std::int64_t extent : tensor.shape) text += fmt::format(" {}", extent);
    text += fmt::format(" {:x}", sample_fingerprint(tensor.bytes));
  }
  return text;
}

}  // namespace optiq::io
