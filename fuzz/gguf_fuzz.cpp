// The GGUF reader, its dequantizers, the rebuilding of tokenizers and the planning of imports over any bytes:
// bad_input, or views that lie in the file.
#include <cstdint>
#include <span>

#include "optiq/io/gguf_dequantize.h"
#include "optiq/io/gguf_import.h"
#include "optiq/io/gguf_tokenizer.h"
#include "require.h"

namespace {

using namespace optiq;

bool lies_in(std::span<const std::byte> part, std::span<const std::byte> file) {
  return part.empty() ||
         (part.data() >= file.data() && part.data() + part.size() <= file.data() + file.size());
}

template <class T>
void require_value_or_bad_input(const Result<T>& result) {
  OPTIQ_FUZZ_REQUIRE(result ||
                     (result.error().code == ErrorCode::bad_input && !result.error().message.empty()));
}

void read_as_every_type(const io::GgufMetadata& metadata, const std::string& key) {
  require_value_or_bad_input(metadata.integer(key));
  require_value_or_bad_input(metadata.number(key));
  require_value_or_bad_input(metadata.boolean(key));
  require_value_or_bad_input(metadata.string(key));
  require_value_or_bad_input(metadata.strings(key));
  require_value_or_bad_input(metadata.integers(key));
  require_value_or_bad_input(metadata.numbers(key));
}

void read_tensor(const io::GgufTensor& tensor) {
  const io::GgufTensorTypeInfo* info = io::find_gguf_tensor_type(tensor.type);
  OPTIQ_FUZZ_REQUIRE(info != nullptr);
  OPTIQ_FUZZ_REQUIRE(tensor.bytes.size() % info->block_bytes == 0);
  std::vector<float> values(tensor.bytes.size() / info->block_bytes * info->block_elements);
  OPTIQ_FUZZ_REQUIRE(io::dequantize(tensor.type, tensor.bytes, values).has_value() == info->supported);
}

void rebuild_tokenizer(const io::GgufMetadata& metadata) {
  const auto read = io::read_gguf_tokenizer(metadata);
  require_value_or_bad_input(read);
  if (!read) return;
  const auto files = io::rebuild_gguf_tokenizer(*read, "fuzz");
  require_value_or_bad_input(files);
  // dump() throws on text that is not UTF-8: then nothing could be written.
  if (files) OPTIQ_FUZZ_REQUIRE(!files->tokenizer.dump().empty() && !files->config.dump().empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto file = io::GgufFile::parse(bytes, "fuzz");
  require_value_or_bad_input(file);
  if (!file) return 0;
  for (const auto& [key, value] : file->metadata().values()) {
    OPTIQ_FUZZ_REQUIRE(lies_in(value.payload, bytes));
    read_as_every_type(file->metadata(), key);
  }
  for (const io::GgufTensor& tensor : file->tensors()) {
    OPTIQ_FUZZ_REQUIRE(lies_in(tensor.bytes, bytes));
    OPTIQ_FUZZ_REQUIRE(file->find(tensor.name) == &tensor);
    read_tensor(tensor);
  }
  rebuild_tokenizer(file->metadata());
  require_value_or_bad_input(io::plan_gguf_import(*file, DType::f32));
  return 0;
}
