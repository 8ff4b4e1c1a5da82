#include "safetensors_header.h"

#include <limits>

#include "optiq/base/json.h"
#include "optiq/base/text.h"

namespace optiq::io {
namespace {

constexpr std::uint64_t kAlignment = 8;

/// Text that is not UTF-8 is written with replacement characters; SafetensorsWriter::create refuses it
/// before.
std::string quoted(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// Bytes of the length and of an object with these members, rounded up to the alignment of the data.
std::uint64_t padded_header_bytes(std::size_t member_bytes) {
  const std::uint64_t unpadded = kLengthBytes + member_bytes + 2;
  return (unpadded + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return printable(fmt::format("[{}]", fmt::join(shape, ", ")));
}

Result<std::uint64_t> tensor_bytes(const TensorSpec& spec) {
  constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  std::uint64_t bytes = dtype_bytes(spec.dtype);
  bool empty = false;
  for (const std::int64_t extent : spec.shape) {
    if (extent < 0)
      return fail(ErrorCode::bad_input, "tensor {}: expected extents of at least 0, got {}",
                  printable(spec.name), extent);
    const auto factor = static_cast<std::uint64_t>(extent);
    empty = empty || factor == 0;
    if (factor > 1 && bytes > kMost / factor) {
      return fail(ErrorCode::bad_input, "tensor {}: shape {} of {} has 2^63 bytes or more",
                  printable(spec.name), shape_text(spec.shape), dtype_name(spec.dtype));
    }
    if (factor > 1) bytes *= factor;
  }
  return empty ? 0 : bytes;
}

HeaderBuilder::HeaderBuilder(const std::map<std::string, std::string>& metadata) {
  if (metadata.empty()) return;
  for (const auto& [key, value] : metadata)
    entries_ += fmt::format("{}{}:{}", entries_.empty() ? "" : ",", quoted(key), quoted(value));
  entries_ = fmt::format("\"__metadata__\":{{{}}}", entries_);
}

std::string HeaderBuilder::entry(const TensorSpec& spec) const {
  const std::uint64_t end = data_bytes_ + tensor_bytes(spec).value_or(0);
  return fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                     entries_.empty() ? "" : ",", quoted(spec.name), dtype_name(spec.dtype),
                     fmt::join(spec.shape, ","), data_bytes_, end);
}

void HeaderBuilder::add(const TensorSpec& spec) {
  entries_ += entry(spec);
  data_bytes_ += tensor_bytes(spec).value_or(0);
}

std::uint64_t HeaderBuilder::header_bytes() const {
  return padded_header_bytes(entries_.size());
}

std::uint64_t HeaderBuilder::file_bytes_with(const TensorSpec& spec) const {
  return padded_header_bytes(entries_.size() + entry(spec).size()) + data_bytes_ +
         tensor_bytes(spec).value_or(0);
}

std::string HeaderBuilder::bytes() const {
  const std::uint64_t json_bytes = header_bytes() - kLengthBytes;
  std::string text;
  for (std::uint64_t i = 0; i < kLengthBytes; ++i) text += static_cast<char>(json_bytes >> (8 * i) & 0xff);
  text += fmt::format("{{{}}}", entries_);
  text.resize(header_bytes(), ' ');
  return text;
}

std::uint64_t safetensors_header_bytes(std::span<const TensorSpec> tensors,
                                       const std::map<std::string, std::string>& metadata) {
  HeaderBuilder header(metadata);
  for (const TensorSpec& spec : tensors) header.add(spec);
  return header.header_bytes();
}

}  // namespace optiq::io
