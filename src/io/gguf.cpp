#include "optiq/io/gguf.h"

#include <algorithm>

#include "gguf_cursor.h"

namespace optiq::io {
namespace {

constexpr std::uint64_t kLongestKey = 65535;
constexpr std::uint64_t kLongestTensorName = 64;
constexpr std::uint32_t kHighestRank = 4;
// The fewest bytes an entry can take: what bounds a count by the bytes that are left.
constexpr std::uint64_t kSmallestEntry = 8 + 1 + 4 + 1;
constexpr std::uint64_t kSmallestTensorInfo = 8 + 1 + 4 + 8 + 4 + 8;
constexpr std::uint64_t kLargestAlignment = 1u << 20;

}  // namespace

std::string printable(std::string_view text) {
  constexpr std::size_t kLongest = 80;
  std::string out;
  for (const char c : text.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      out += c;
    } else {
      out += fmt::format("\\x{:02x}", byte);
    }
  }
  if (text.size() > kLongest) out += "…";
  return out;
}

/// One pass over the file, front to back.
class GgufParser {
 public:
  GgufParser(std::span<const std::byte> bytes, std::string where)
      : bytes_(bytes), where_(std::move(where)), cursor_(bytes_, where_) {}

  Result<GgufFile> parse();

 private:
  Status parse_header();
  Status parse_metadata();
  Result<GgufValue> parse_value(std::string_view key);
  Result<GgufValue> parse_array(std::string_view key);
  Result<GgufValueType> parse_value_type(std::string_view key);
  Status skip_string(std::string_view key);
  Status check_booleans(std::string_view key, const GgufValue& value);
  Status parse_alignment();
  Status parse_tensor_infos();
  Result<GgufTensor> parse_tensor_info();
  Status parse_shape(GgufTensor& tensor);
  Status parse_type(GgufTensor& tensor);
  Status place_tensors();
  Status check_overlaps();

  /// An error that names this file, what it is about and where it lies.
  template <class... Args>
  tl::unexpected<Error> bad(std::string_view kind, std::string_view name, std::uint64_t offset,
                            fmt::format_string<Args...> text, Args&&... args) const {
    return fail(ErrorCode::bad_input, "{}: {} \"{}\" at offset {}: {}", where_, kind, printable(name), offset,
                fmt::format(text, std::forward<Args>(args)...));
  }

  std::span<const std::byte> bytes_;
  std::string where_;
  GgufCursor cursor_;
  GgufFile file_;
  std::uint64_t tensor_count_ = 0;
  std::uint64_t metadata_count_ = 0;
};

Result<GgufFile> GgufParser::parse() {
  OPTIQ_CHECK(parse_header());
  OPTIQ_CHECK(parse_metadata());
  OPTIQ_CHECK(parse_alignment());
  OPTIQ_CHECK(parse_tensor_infos());
  OPTIQ_CHECK(place_tensors());
  OPTIQ_CHECK(check_overlaps());
  file_.where_ = where_;
  return std::move(file_);
}

Status GgufParser::parse_header() {
  OPTIQ_TRY(const auto magic, cursor_.take(4, "the magic \"GGUF\""));
  const std::string_view text(reinterpret_cast<const char*>(magic.data()), magic.size());
  if (text != "GGUF") {
    return fail(ErrorCode::bad_input, "{}: expected a GGUF file, which begins with \"GGUF\", got \"{}\"",
                where_, printable(text));
  }
  OPTIQ_TRY(file_.version_, cursor_.read<std::uint32_t>("the version"));
  if (file_.version_ == 0x02000000u || file_.version_ == 0x03000000u)
    return fail(ErrorCode::bad_input, "{}: expected a little-endian GGUF file, got a big-endian one", where_);
  if (file_.version_ != 2 && file_.version_ != 3)
    return fail(ErrorCode::bad_input, "{}: expected GGUF version 2 or 3, got {}", where_, file_.version_);
  OPTIQ_TRY(tensor_count_, cursor_.read<std::uint64_t>("the tensor count"));
  OPTIQ_TRY(metadata_count_, cursor_.read<std::uint64_t>("the metadata count"));
  if (metadata_count_ > cursor_.remaining() / kSmallestEntry ||
      tensor_count_ > cursor_.remaining() / kSmallestTensorInfo) {
    return fail(
        ErrorCode::bad_input,
        "{}: the header promises {} metadata entries and {} tensors, too many for the {} bytes that follow",
        where_, metadata_count_, tensor_count_, cursor_.remaining());
  }
  return {};
}

Status GgufParser::parse_metadata() {
  std::map<std::string, GgufValue, std::less<>> values;
  for (std::uint64_t i = 0; i < metadata_count_; ++i) {
    const std::uint64_t start = cursor_.offset();
    OPTIQ_TRY(std::string key, cursor_.name(kLongestKey, fmt::format("key {} of {}", i, metadata_count_)));
    if (values.contains(key)) return bad("key", key, start, "expected every key once, got it twice");
    OPTIQ_TRY(const GgufValue value, parse_value(key));
    values.emplace(std::move(key), value);
  }
  file_.metadata_ = GgufMetadata(std::move(values), where_);
  return {};
}

Result<GgufValueType> GgufParser::parse_value_type(std::string_view key) {
  const std::uint64_t start = cursor_.offset();
  OPTIQ_TRY(const auto number,
            cursor_.read<std::uint32_t>(fmt::format("the type of \"{}\"", printable(key))));
  const auto type = static_cast<GgufValueType>(number);
  if (!gguf_value_type_name(type))
    return bad("key", key, start, "expected a value type of 0 to 12, got {}", number);
  return type;
}

Result<GgufValue> GgufParser::parse_value(std::string_view key) {
  GgufValue value;
  OPTIQ_TRY(value.type, parse_value_type(key));
  if (value.type == GgufValueType::array) return parse_array(key);
  const std::string what = fmt::format("the value of \"{}\"", printable(key));
  std::uint64_t bytes = gguf_value_bytes(value.type);
  if (value.type == GgufValueType::string) {
    OPTIQ_TRY(bytes, cursor_.read<std::uint64_t>(what));
  }
  value.offset = cursor_.offset();
  OPTIQ_TRY(value.payload, cursor_.take(bytes, what));
  if (value.type == GgufValueType::boolean) OPTIQ_CHECK(check_booleans(key, value));
  return value;
}

Result<GgufValue> GgufParser::parse_array(std::string_view key) {
  GgufValue value;
  value.type = GgufValueType::array;
  OPTIQ_TRY(value.element, parse_value_type(key));
  OPTIQ_TRY(value.count, cursor_.read<std::uint64_t>(fmt::format("the length of \"{}\"", printable(key))));
  value.offset = cursor_.offset();
  if (value.element == GgufValueType::array)
    return bad("key", key, value.offset, "expected an array of plain values, got an array of arrays");
  const bool strings = value.element == GgufValueType::string;
  const std::uint64_t smallest = strings ? sizeof(std::uint64_t) : gguf_value_bytes(value.element);
  if (value.count > cursor_.remaining() / smallest) {
    return bad("key", key, value.offset,
               "expected {} elements of at least {} bytes, got {} bytes to the end of the file", value.count,
               smallest, cursor_.remaining());
  }
  if (strings) {
    for (std::uint64_t i = 0; i < value.count; ++i) OPTIQ_CHECK(skip_string(key));
    value.payload = bytes_.subspan(value.offset, cursor_.offset() - value.offset);
  } else {
    OPTIQ_TRY(value.payload, cursor_.take(value.count * smallest, "an array"));
  }
  if (value.element == GgufValueType::boolean) OPTIQ_CHECK(check_booleans(key, value));
  return value;
}

Status GgufParser::skip_string(std::string_view key) {
  const std::uint64_t start = cursor_.offset();
  if (cursor_.remaining() < sizeof(std::uint64_t))
    return bad("key", key, start, "expected a string, got the end of the file");
  OPTIQ_TRY(const auto length, cursor_.read<std::uint64_t>("a string's length"));
  if (length > cursor_.remaining()) {
    return bad("key", key, start, "expected a string of {} bytes, got {} to the end of the file", length,
               cursor_.remaining());
  }
  OPTIQ_CHECK(cursor_.take(length, "a string"));
  return {};
}

Status GgufParser::check_booleans(std::string_view key, const GgufValue& value) {
  const auto wrong = std::ranges::find_if(value.payload, [](std::byte b) { return b > std::byte{1}; });
  if (wrong == value.payload.end()) return {};
  const auto index = static_cast<std::uint64_t>(wrong - value.payload.begin());
  return bad("key", key, value.offset + index, "expected a boolean of 0 or 1, got {}",
             std::to_integer<int>(*wrong));
}

Status GgufParser::parse_alignment() {
  OPTIQ_TRY(const std::int64_t alignment, file_.metadata_.integer_or("general.alignment", 32));
  if (alignment < 1 || static_cast<std::uint64_t>(alignment) > kLargestAlignment ||
      !std::has_single_bit(static_cast<std::uint64_t>(alignment))) {
    return fail(ErrorCode::bad_input, "{}: general.alignment: expected a power of two up to {}, got {}",
                where_, kLargestAlignment, alignment);
  }
  file_.alignment_ = static_cast<std::uint64_t>(alignment);
  return {};
}

Status GgufParser::parse_tensor_infos() {
  for (std::uint64_t i = 0; i < tensor_count_; ++i) {
    const std::uint64_t start = cursor_.offset();
    OPTIQ_TRY(GgufTensor tensor, parse_tensor_info());
    if (!file_.index_.emplace(tensor.name, file_.tensors_.size()).second)
      return bad("tensor", tensor.name, start, "expected every tensor once, got it twice");
    file_.tensors_.push_back(std::move(tensor));
  }
  return {};
}

Result<GgufTensor> GgufParser::parse_tensor_info() {
  GgufTensor tensor;
  OPTIQ_TRY(tensor.name, cursor_.name(kLongestTensorName, fmt::format("name of tensor {} of {}",
                                                                      file_.tensors_.size(), tensor_count_)));
  OPTIQ_CHECK(parse_shape(tensor));
  OPTIQ_CHECK(parse_type(tensor));
  OPTIQ_TRY(tensor.offset,
            cursor_.read<std::uint64_t>(fmt::format("the offset of \"{}\"", printable(tensor.name))));
  return tensor;
}

Status GgufParser::parse_shape(GgufTensor& tensor) {
  const std::uint64_t start = cursor_.offset();
  const std::string what = fmt::format("the shape of \"{}\"", printable(tensor.name));
  OPTIQ_TRY(const auto rank, cursor_.read<std::uint32_t>(what));
  if (rank < 1 || rank > kHighestRank)
    return bad("tensor", tensor.name, start, "expected a rank of 1 to {}, got {}", kHighestRank, rank);
  std::int64_t elements = 1;
  for (std::uint32_t i = 0; i < rank; ++i) {
    OPTIQ_TRY(const auto extent, cursor_.read<std::int64_t>(what));
    if (extent < 1 || __builtin_mul_overflow(elements, extent, &elements)) {
      return bad("tensor", tensor.name, start,
                 "expected extents of at least 1 whose product fits in 63 bits, got {}",
                 static_cast<std::uint64_t>(extent));
    }
    tensor.shape.push_back(extent);
  }
  std::ranges::reverse(tensor.shape);
  return {};
}

Status GgufParser::parse_type(GgufTensor& tensor) {
  const std::uint64_t start = cursor_.offset();
  OPTIQ_TRY(const auto number,
            cursor_.read<std::uint32_t>(fmt::format("the type of \"{}\"", printable(tensor.name))));
  tensor.type = static_cast<GgufTensorType>(number);
  const GgufTensorTypeInfo* info = find_gguf_tensor_type(tensor.type);
  if (info == nullptr)
    return bad("tensor", tensor.name, start, "expected a known tensor type, got number {}", number);
  const auto row = static_cast<std::uint64_t>(tensor.shape.back());
  if (row % info->block_elements != 0) {
    return bad("tensor", tensor.name, start, "expected rows of a multiple of {} elements for {}, got {}",
               info->block_elements, info->name, row);
  }
  return {};
}

/// Turns offsets into the data into offsets into the file, and gives each tensor its bytes.
Status GgufParser::place_tensors() {
  const std::uint64_t infos_end = cursor_.offset();
  const std::uint64_t data = (infos_end + file_.alignment_ - 1) / file_.alignment_ * file_.alignment_;
  const std::uint64_t available = data < bytes_.size() ? bytes_.size() - data : 0;
  for (GgufTensor& tensor : file_.tensors_) {
    const GgufTensorTypeInfo& info = *find_gguf_tensor_type(tensor.type);
    std::uint64_t blocks = 1;
    for (const std::int64_t extent : tensor.shape) blocks *= static_cast<std::uint64_t>(extent);
    blocks /= info.block_elements;
    if (tensor.offset % file_.alignment_ != 0) {
      return bad("tensor", tensor.name, data, "expected a data offset that is a multiple of {}, got {}",
                 file_.alignment_, tensor.offset);
    }
    if (tensor.offset > available || blocks > (available - tensor.offset) / info.block_bytes) {
      return bad("tensor", tensor.name, data,
                 "expected {} blocks of {} bytes at data offset {}, got {} bytes of data in the file", blocks,
                 info.block_bytes, tensor.offset, available);
    }
    tensor.offset += data;
    tensor.bytes = bytes_.subspan(tensor.offset, blocks * info.block_bytes);
  }
  return {};
}

Status GgufParser::check_overlaps() {
  std::vector<const GgufTensor*> order;
  for (const GgufTensor& tensor : file_.tensors_) order.push_back(&tensor);
  std::ranges::sort(order, {}, [](const GgufTensor* tensor) { return tensor->offset; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const std::uint64_t end = order[i - 1]->offset + order[i - 1]->bytes.size();
    if (order[i]->offset < end) {
      return bad("tensor", order[i]->name, order[i]->offset, "it overlaps \"{}\", which ends at {}",
                 printable(order[i - 1]->name), end);
    }
  }
  return {};
}

Result<GgufFile> GgufFile::open(const std::filesystem::path& path) {
  OPTIQ_TRY(MappedFile mapped, MappedFile::open(path));
  OPTIQ_TRY(GgufFile file, parse(mapped.bytes(), path.string()));
  file.file_ = std::move(mapped);
  return file;
}

Result<GgufFile> GgufFile::parse(std::span<const std::byte> bytes, std::string where) {
  return GgufParser(bytes, std::move(where)).parse();
}

const GgufTensor* GgufFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

}  // namespace optiq::io
