// The safetensors reader over any bytes: bad_input, or tensors whose bytes cover the data exactly once.
#include <cstdint>
#include <span>

#include "optiq/io/safetensors.h"
#include "require.h"

namespace {

using namespace optiq;

std::uint64_t checked_bytes(const io::TensorView& view, std::span<const std::byte> file) {
  OPTIQ_FUZZ_REQUIRE(view.elements() >= 0);
  OPTIQ_FUZZ_REQUIRE(view.bytes.size() ==
                     static_cast<std::uint64_t>(view.elements()) * dtype_bytes(view.dtype));
  OPTIQ_FUZZ_REQUIRE(view.bytes.data() >= file.data());
  OPTIQ_FUZZ_REQUIRE(view.bytes.data() + view.bytes.size() <= file.data() + file.size());
  return view.bytes.size();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto file = io::SafetensorsFile::parse(bytes, "fuzz");
  if (!file) {
    OPTIQ_FUZZ_REQUIRE(file.error().code == ErrorCode::bad_input && !file.error().message.empty());
    return 0;
  }
  std::uint64_t total = file->header_bytes();
  for (const auto& [name, view] : file->tensors()) {
    OPTIQ_FUZZ_REQUIRE(name == view.name);
    total += checked_bytes(view, bytes);
  }
  OPTIQ_FUZZ_REQUIRE(total == size);
  return 0;
}
