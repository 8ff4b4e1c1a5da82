#include <set>

#include "optiq/base/json.h"
#include "optiq/base/text.h"
#include "optiq/io/safetensors.h"
#include "safetensors_header.h"

namespace optiq::io {
namespace {

bool is_utf8(const std::string& text) {
  try {
    return !Json(text).dump().empty();
  } catch (const Json::type_error&) {
    return false;
  }
}

/// What no safetensors reader would take back.
Status check_specs(const std::vector<TensorSpec>& tensors) {
  std::set<std::string_view> names;
  std::uint64_t total = 0;
  for (const TensorSpec& spec : tensors) {
    OPTIQ_TRY(const std::uint64_t bytes, tensor_bytes(spec));
    total += bytes;
    if (total >= 1ull << 63)
      return fail(ErrorCode::bad_input, "all tensors together have 2^63 bytes or more");
    if (!is_utf8(spec.name) || spec.name == "__metadata__")
      return fail(ErrorCode::bad_input, "tensor \"{}\": not a name that can be stored", printable(spec.name));
    if (!names.insert(spec.name).second)
      return fail(ErrorCode::bad_input, "tensor {}: given twice", printable(spec.name));
  }
  return {};
}

Status check_metadata(const std::map<std::string, std::string>& metadata) {
  for (const auto& [key, value] : metadata) {
    if (!is_utf8(key) || !is_utf8(value))
      return fail(ErrorCode::bad_input, "metadata \"{}\": expected UTF-8", printable(key));
  }
  return {};
}

Result<HeaderBuilder> make_header(const std::filesystem::path& path, const std::vector<TensorSpec>& tensors,
                                  const std::map<std::string, std::string>& metadata) {
  for (const Status& status : {check_specs(tensors), check_metadata(metadata)})
    if (!status) return with_context(status.error(), path.string());
  HeaderBuilder header(metadata);
  for (const TensorSpec& spec : tensors) header.add(spec);
  if (header.header_bytes() - kLengthBytes > kLongestHeaderBytes) {
    return fail(ErrorCode::bad_input, "{}: a header of {} bytes; readers take at most {}", path.string(),
                header.header_bytes() - kLengthBytes, kLongestHeaderBytes);
  }
  return header;
}

}  // namespace

Result<SafetensorsWriter> SafetensorsWriter::create(const std::filesystem::path& path,
                                                    std::vector<TensorSpec> tensors,
                                                    const std::map<std::string, std::string>& metadata) {
  OPTIQ_TRY(const HeaderBuilder header, make_header(path, tensors, metadata));
  OPTIQ_TRY(FileWriter file, FileWriter::create(path));
  const std::string bytes = header.bytes();
  OPTIQ_CHECK(file.write(std::as_bytes(std::span(bytes))));
  return SafetensorsWriter(std::move(file), header.data_bytes());
}

Result<SafetensorsWriter> SafetensorsWriter::resume(const std::filesystem::path& path,
                                                    std::vector<TensorSpec> tensors,
                                                    const std::map<std::string, std::string>& metadata,
                                                    std::size_t done) {
  OPTIQ_TRY(const HeaderBuilder header, make_header(path, tensors, metadata));
  std::uint64_t kept = 0;
  for (std::size_t i = 0; i < done; ++i) kept += tensor_bytes(tensors[i]).value_or(0);
  OPTIQ_TRY(FileWriter file, FileWriter::resume(path, header.header_bytes() + kept));
  return SafetensorsWriter(std::move(file), header.data_bytes() - kept);
}

Status SafetensorsWriter::append(std::span<const std::byte> bytes) {
  if (bytes.size() > remaining_) {
    return fail(ErrorCode::internal, "safetensors writer: expected at most {} more bytes, got {}", remaining_,
                bytes.size());
  }
  remaining_ -= bytes.size();
  return file_.write(bytes);
}

Status SafetensorsWriter::finish() {
  if (remaining_ != 0)
    return fail(ErrorCode::internal, "safetensors writer: {} bytes of tensors are missing", remaining_);
  return file_.finish();
}

}  // namespace optiq::io
