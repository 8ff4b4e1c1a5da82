// The Parquet reader of the Rust bridge over any bytes: documents of the promised shape, or bad_input, after
// which the reader is at its end.
#include <cstdint>

#include "optiq/io/parquet.h"
#include "require.h"

namespace {

using optiq::ErrorCode;
using optiq::Json;

constexpr int kMostRows = 4096;

bool is_document(const Json& json) {
  if (json.is_null()) return true;
  if (json.size() != 1) return false;
  if (json.contains("text")) return json["text"].is_string();
  return json.contains("messages") && json["messages"].is_array() && !json["messages"].empty();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto documents = optiq::io::ParquetDocuments::parse(std::as_bytes(std::span(data, size)), "fuzz");
  if (!documents) {
    OPTIQ_FUZZ_REQUIRE(documents.error().code == ErrorCode::bad_input);
    return 0;
  }
  for (int row = 0; row < kMostRows; ++row) {
    const auto document = documents->next();
    if (document && *document) {
      OPTIQ_FUZZ_REQUIRE(is_document(**document));
      continue;
    }
    if (document) return 0;
    OPTIQ_FUZZ_REQUIRE(document.error().code == ErrorCode::bad_input && !document.error().message.empty());
    const auto after = documents->next();
    OPTIQ_FUZZ_REQUIRE(after && !*after);
    return 0;
  }
  return 0;
}
