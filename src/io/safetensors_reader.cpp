#include <algorithm>
#include <functional>
#include <numeric>

#include "optiq/base/json.h"
#include "optiq/base/text.h"
#include "optiq/io/safetensors.h"
#include "safetensors_header.h"

namespace optiq::io {
namespace {

using Bytes = std::span<const std::byte>;

/// Where a header puts a tensor, counted from the first byte behind the header.
struct Entry {
  TensorSpec spec;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

std::uint64_t read_length(Bytes bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i) value |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
  return value;
}

/// The JSON text, once its length is known to be true.
Result<std::string_view> header_text(Bytes bytes, const std::string& where) {
  if (bytes.size() < kLengthBytes) {
    return fail(ErrorCode::bad_input, "{}: expected at least {} bytes, got {}: no safetensors file", where,
                kLengthBytes, bytes.size());
  }
  const std::uint64_t length = read_length(bytes);
  if (length > kLongestHeaderBytes) {
    return fail(ErrorCode::bad_input,
                "{}: header of {} bytes, at most {} are allowed: corrupt, or no safetensors file", where,
                length, kLongestHeaderBytes);
  }
  if (length > bytes.size() - kLengthBytes) {
    return fail(ErrorCode::bad_input, "{}: truncated: header of {} bytes, but only {} follow its length",
                where, length, bytes.size() - kLengthBytes);
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
  if (!text.starts_with('{'))
    return fail(ErrorCode::bad_input, "{}: expected the header to begin with '{{'", where);
  return text;
}

Result<std::uint64_t> unsigned_number(const Json& json, const std::string& where, std::string_view what) {
  constexpr auto kMost = static_cast<std::uint64_t>(INT64_MAX);
  if (json.is_number_unsigned() && json.get<std::uint64_t>() <= kMost) return json.get<std::uint64_t>();
  return fail(ErrorCode::bad_input, "{}: {}: expected an integer from 0 to 2^63 - 1, got {}", where, what,
              printable(json.dump(-1, ' ', false, Json::error_handler_t::replace)));
}

Result<DType> read_dtype(const JsonReader& entry) {
  OPTIQ_TRY(const std::string name, entry.string("dtype"));
  const std::optional<DType> dtype = dtype_from_name(name);
  if (dtype) return *dtype;
  return fail(
      ErrorCode::bad_input,
      "{}: dtype {} is not supported (BOOL, U8 to I64, F16, BF16, F32 and F64 are); convert the checkpoint "
      "to BF16 first",
      entry.where(), printable(name));
}

Result<std::vector<std::int64_t>> read_shape(const JsonReader& entry) {
  OPTIQ_TRY(const Json* extents, entry.array("shape"));
  std::vector<std::int64_t> shape;
  for (const Json& extent : *extents) {
    OPTIQ_TRY(const std::uint64_t value, unsigned_number(extent, entry.where(), "shape"));
    shape.push_back(static_cast<std::int64_t>(value));
  }
  return shape;
}

Status read_offsets(const JsonReader& reader, Entry& entry) {
  OPTIQ_TRY(const Json* offsets, reader.array("data_offsets"));
  if (offsets->size() != 2) {
    return fail(ErrorCode::bad_input, "{}: expected two data_offsets, got {}", reader.where(),
                offsets->size());
  }
  OPTIQ_TRY(entry.begin, unsigned_number((*offsets)[0], reader.where(), "data_offsets"));
  OPTIQ_TRY(entry.end, unsigned_number((*offsets)[1], reader.where(), "data_offsets"));
  return {};
}

/// A tensor's entry, its offsets checked against its shape and against the data's size.
Result<Entry> read_entry(const std::string& name, const Json& json, const std::string& file,
                         std::uint64_t data_bytes) {
  const JsonReader reader(json, fmt::format("{}: tensor {}", file, printable(name)));
  Entry entry;
  entry.spec.name = name;
  OPTIQ_TRY(entry.spec.dtype, read_dtype(reader));
  OPTIQ_TRY(entry.spec.shape, read_shape(reader));
  OPTIQ_CHECK(read_offsets(reader, entry));
  if (entry.begin > entry.end || entry.end > data_bytes) {
    return fail(ErrorCode::bad_input, "{}: data_offsets [{}, {}] are not inside the file's {} bytes of data",
                reader.where(), entry.begin, entry.end, data_bytes);
  }
  const Result<std::uint64_t> bytes = tensor_bytes(entry.spec);
  if (!bytes) return with_context(bytes.error(), file);
  if (*bytes != entry.end - entry.begin) {
    return fail(ErrorCode::bad_input, "{}: shape {} of {} needs {} bytes, data_offsets [{}, {}] hold {}",
                reader.where(), shape_text(entry.spec.shape), dtype_name(entry.spec.dtype), *bytes,
                entry.begin, entry.end, entry.end - entry.begin);
  }
  return entry;
}

Status read_metadata(const Json& json, const std::string& where,
                     std::map<std::string, std::string>& metadata) {
  if (!json.is_object())
    return fail(ErrorCode::bad_input, "{}: __metadata__: expected an object, got {}", where,
                json.type_name());
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string()) {
      return fail(ErrorCode::bad_input, "{}: __metadata__: \"{}\": expected a string, got {}", where,
                  printable(key), value.type_name());
    }
    metadata[key] = value.get<std::string>();
  }
  return {};
}

/// Every byte of the data belongs to exactly one tensor.
Status check_coverage(std::vector<Entry>& entries, const std::string& where, std::uint64_t data_bytes) {
  std::ranges::sort(entries, [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t covered = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != covered) {
      return fail(ErrorCode::bad_input, "{}: tensor {}: begins at byte {} of the data, expected {}: {}",
                  where, printable(entry.spec.name), entry.begin, covered,
                  entry.begin < covered ? "it overlaps another tensor" : "a gap before it");
    }
    covered = entry.end;
  }
  if (covered == data_bytes) return {};
  return fail(ErrorCode::bad_input, "{}: the tensors end at byte {} of the data, which has {} bytes", where,
              covered, data_bytes);
}

}  // namespace

std::int64_t TensorView::elements() const {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

Result<SafetensorsFile> SafetensorsFile::parse(Bytes bytes, std::string where) {
  OPTIQ_TRY(const std::string_view text, header_text(bytes, where));
  OPTIQ_TRY(const Json header, parse_json(text, where, DuplicateKeys::refused));
  SafetensorsFile file;
  file.header_bytes_ = kLengthBytes + text.size();
  const Bytes data = bytes.subspan(file.header_bytes_);
  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      OPTIQ_CHECK(read_metadata(value, where, file.metadata_));
      continue;
    }
    OPTIQ_TRY(Entry entry, read_entry(name, value, where, data.size()));
    entries.push_back(std::move(entry));
  }
  OPTIQ_CHECK(check_coverage(entries, where, data.size()));
  for (Entry& entry : entries) {
    const Bytes own = data.subspan(entry.begin, entry.end - entry.begin);
    TensorView view{entry.spec.name, entry.spec.dtype, std::move(entry.spec.shape), own, {}};
    file.tensors_.emplace(std::move(entry.spec.name), std::move(view));
  }
  return file;
}

Result<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path, Access access) {
  OPTIQ_TRY(const MappedFile mapping, MappedFile::open(path, access));
  OPTIQ_TRY(SafetensorsFile file, parse(mapping.bytes(), path.string()));
  for (auto& [name, view] : file.tensors_) view.file = mapping;
  return file;
}

}  // namespace optiq::io
