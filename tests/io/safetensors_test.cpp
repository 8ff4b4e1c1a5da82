#include "optiq/io/safetensors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "support/contains.h"
#include "support/random_tensors.h"
#include "support/temporary_folder.h"

namespace optiq::io {
namespace {

namespace fs = std::filesystem;
using test::contains;
using test::StoredTensor;
using test::TemporaryFolder;

using Metadata = std::map<std::string, std::string>;

std::string little_endian(std::uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
  return bytes;
}

std::string file_of(const std::string& header, std::size_t data_bytes) {
  return little_endian(header.size()) + header + std::string(data_bytes, '\x5a');
}

std::string file_content(const fs::path& path) {
  return read_text_file(path).value();
}

Result<SafetensorsFile> parse(const std::string& file) {
  return SafetensorsFile::parse(std::as_bytes(std::span(file)), "x.safetensors");
}

/// The message of a file that must be refused.
std::string refusal(const std::string& file) {
  const auto parsed = parse(file);
  if (parsed) return "accepted";
  EXPECT_EQ(parsed.error().code, ErrorCode::bad_input);
  EXPECT_TRUE(parsed.error().message.starts_with("x.safetensors: "));
  return parsed.error().message;
}

Status write_all(const fs::path& path, const std::vector<StoredTensor>& tensors, const Metadata& metadata) {
  OPTIQ_TRY(auto writer, SafetensorsWriter::create(path, test::specs_of(tensors), metadata));
  for (const StoredTensor& tensor : tensors) OPTIQ_CHECK(writer.append(tensor.bytes));
  return writer.finish();
}

void expect_equal(const TensorView& view, const StoredTensor& tensor) {
  EXPECT_EQ(view.name, tensor.spec.name);
  EXPECT_EQ(view.dtype, tensor.spec.dtype);
  EXPECT_EQ(view.shape, tensor.spec.shape);
  EXPECT_TRUE(std::ranges::equal(view.bytes, tensor.bytes)) << tensor.spec.name;
}

TEST(Safetensors, RoundTripOfEveryDTypeAndRank) {
  const TemporaryFolder folder;
  Random random(std::random_device{}());
  const auto tensors = test::random_tensors(random);
  const Metadata metadata{{"format", "mlx"}, {"quote\"", "line\nbreak ü"}};
  ASSERT_TRUE(write_all(folder.path() / "a", tensors, metadata));
  const auto file = SafetensorsFile::open(folder.path() / "a").value();
  EXPECT_EQ(file.metadata(), metadata);
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const StoredTensor& tensor : tensors) expect_equal(file.tensors().at(tensor.spec.name), tensor);
}

TEST(Safetensors, HeaderSizeIsPredictedToTheByteAndAligned) {
  const TemporaryFolder folder;
  Random random(std::random_device{}());
  for (int trial = 0; trial < 40; ++trial) {
    std::vector<StoredTensor> tensors;
    for (std::uint64_t i = random.below(6); i > 0; --i) {
      const auto extent = static_cast<std::int64_t>(random.below(2000));
      tensors.push_back(test::random_tensor(random, std::string(i, 'n'), DType::i16, {extent}));
    }
    const Metadata metadata = trial % 2 == 0 ? Metadata{} : Metadata{{"format", std::string(trial, 'm')}};
    const fs::path path = folder.path() / "a";
    ASSERT_TRUE(write_all(path, tensors, metadata));
    const auto specs = test::specs_of(tensors);
    const std::uint64_t predicted = safetensors_header_bytes(specs, metadata);
    EXPECT_EQ(predicted % 8, 0u);
    EXPECT_EQ(SafetensorsFile::open(path)->header_bytes(), predicted);
    std::uint64_t data = 0;
    for (const auto& tensor : tensors) data += tensor.bytes.size();
    EXPECT_EQ(fs::file_size(path), predicted + data);
  }
}

TEST(Safetensors, BytesAsTheFormatDefinesThem) {
  const TemporaryFolder folder;
  const StoredTensor tensor{{"w", DType::u16, {2, 1}},
                            {std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}}};
  ASSERT_TRUE(write_all(folder.path() / "a", {tensor}, {{"format", "mlx"}}));
  std::string header =
      R"({"__metadata__":{"format":"mlx"},"w":{"dtype":"U16","shape":[2,1],"data_offsets":[0,4]}})";
  while (header.size() % 8 != 0) header += ' ';
  EXPECT_EQ(file_content(folder.path() / "a"), little_endian(header.size()) + header + "\x01\x02\x03\x04");
}

TEST(Safetensors, EveryTruncationIsBadInput) {
  const TemporaryFolder folder;
  Random random(std::random_device{}());
  ASSERT_TRUE(write_all(folder.path() / "a",
                        {test::random_tensor(random, "w", DType::f32, {3, 2}),
                         test::random_tensor(random, "b", DType::u8, {5})},
                        {{"format", "mlx"}}));
  const std::string whole = file_content(folder.path() / "a");
  ASSERT_TRUE(parse(whole));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    // A copy of exactly this size: a read past its end is one past an allocation, which sanitizers see.
    const std::vector<char> cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    const auto parsed = SafetensorsFile::parse(std::as_bytes(std::span(cut)), "cut");
    ASSERT_FALSE(parsed) << size;
    EXPECT_EQ(parsed.error().code, ErrorCode::bad_input);
  }
}

TEST(Safetensors, EveryByteFlipIsReadOrRefused) {
  const TemporaryFolder folder;
  Random random(std::random_device{}());
  ASSERT_TRUE(write_all(folder.path() / "a", {test::random_tensor(random, "w", DType::f32, {3, 2})}, {}));
  const std::string whole = file_content(folder.path() / "a");
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ static_cast<char>(1 + random.below(255)));
    const auto parsed = parse(damaged);
    if (!parsed) {
      EXPECT_EQ(parsed.error().code, ErrorCode::bad_input);
    } else {
      for (const auto& [name, view] : parsed->tensors()) EXPECT_LE(view.bytes.size(), 24u);
    }
  }
}

TEST(Safetensors, LyingHeaderLengths) {
  const std::string header = R"({"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})";
  const auto with_length = [&](std::uint64_t length) { return little_endian(length) + header + "ab"; };
  EXPECT_TRUE(parse(with_length(header.size())));
  EXPECT_TRUE(contains(refusal(with_length(0)), "expected the header to begin with '{'"));
  EXPECT_TRUE(
      contains(refusal(with_length(header.size() + 3)), "truncated: header of 56 bytes, but only 55"));
  EXPECT_TRUE(contains(refusal(with_length(100000001)), "at most 100000000 are allowed"));
  EXPECT_TRUE(contains(refusal(with_length(~0ull)), "header of 18446744073709551615 bytes"));
  EXPECT_TRUE(contains(refusal(with_length(header.size() - 1)), "not valid JSON"));
  EXPECT_TRUE(contains(refusal("abc"), "expected at least 8 bytes, got 3"));
}

TEST(Safetensors, MalformedHeaders) {
  EXPECT_TRUE(contains(refusal(file_of(" {}", 0)), "begin with '{'"));
  EXPECT_TRUE(contains(refusal(file_of("[]", 0)), "begin with '{'"));
  EXPECT_TRUE(contains(refusal(file_of("{} x", 0)), "not valid JSON"));
  EXPECT_TRUE(contains(refusal(file_of(std::string("{}\0", 3), 0)), "NUL at byte 2"));
  EXPECT_TRUE(contains(refusal(file_of("{\"\xff\":{}}", 0)), "not valid JSON"));
  EXPECT_TRUE(contains(refusal(file_of("{\"w\":" + std::string(200, '['), 0)), "nested deeper"));
  const std::string entry = R"("w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  EXPECT_TRUE(contains(refusal(file_of("{" + entry + "," + entry + "}", 0)), "the key \"w\" appears twice"));
  EXPECT_TRUE(
      contains(refusal(file_of(R"({"w":{"dtype":"U8","shape":[0],"shape":[0],"data_offsets":[0,0]}})", 0)),
               "the key \"shape\" appears twice"));
}

TEST(Safetensors, PaddingAndAnEmptyFileAreFine) {
  EXPECT_TRUE(parse(file_of("{}", 0))->tensors().empty());
  EXPECT_TRUE(parse(file_of("{}      ", 0)));
}

TEST(Safetensors, MetadataHoldsStringsOnly) {
  EXPECT_EQ(parse(file_of(R"({"__metadata__":{"a":"b"}})", 0))->metadata(), (Metadata{{"a", "b"}}));
  EXPECT_TRUE(
      contains(refusal(file_of(R"({"__metadata__":{"a":1}})", 0)), "\"a\": expected a string, got number"));
  EXPECT_TRUE(contains(refusal(file_of(R"({"__metadata__":[]})", 0)), "expected an object, got array"));
}

/// One tensor's entry and the sentence that refuses it.
struct BadEntry {
  const char* entry;
  const char* message;
};

TEST(Safetensors, BadEntriesNameTensorAndReason) {
  const BadEntry cases[] = {
      {"7", "tensor w: expected an object, got number"},
      {R"({"shape":[4],"data_offsets":[0,4]})", "\"dtype\": expected a string, but it is missing"},
      {R"({"dtype":1,"shape":[4],"data_offsets":[0,4]})", "\"dtype\": expected a string, got number"},
      {R"({"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]})", "tensor w: dtype F8_E4M3 is not supported"},
      {R"({"dtype":"f32","shape":[1],"data_offsets":[0,4]})", "dtype f32 is not supported"},
      {R"({"dtype":"U8","data_offsets":[0,4]})", "\"shape\": expected an array, but it is missing"},
      {R"({"dtype":"U8","shape":4,"data_offsets":[0,4]})", "\"shape\": expected an array, got number"},
      {R"({"dtype":"U8","shape":["4"],"data_offsets":[0,4]})", "shape: expected an integer from 0"},
      {R"({"dtype":"U8","shape":[4.0],"data_offsets":[0,4]})",
       "shape: expected an integer from 0 to 2^63 - 1, got 4.0"},
      {R"({"dtype":"U8","shape":[-4],"data_offsets":[0,4]})",
       "shape: expected an integer from 0 to 2^63 - 1, got -4"},
      {R"({"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,4]})", "got 9223372036854775808"},
      {R"({"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,4]})", "shape: expected an integer"},
      {R"({"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]})", "has 2^63 bytes or more"},
      {R"({"dtype":"U16","shape":[4611686018427387904],"data_offsets":[0,0]})", "has 2^63 bytes or more"},
      {R"({"dtype":"U8","shape":[4611686018427387904,4,0],"data_offsets":[0,0]})", "has 2^63 bytes or more"},
      {R"({"dtype":"U8","shape":[4]})", "\"data_offsets\": expected an array, but it is missing"},
      {R"({"dtype":"U8","shape":[4],"data_offsets":[0]})", "expected two data_offsets, got 1"},
      {R"({"dtype":"U8","shape":[4],"data_offsets":[0,2,4]})", "expected two data_offsets, got 3"},
      {R"({"dtype":"U8","shape":[4],"data_offsets":[-1,3]})", "data_offsets: expected an integer from 0"},
      {R"({"dtype":"U8","shape":[4],"data_offsets":["0","4"]})", "data_offsets: expected an integer from 0"},
      {R"({"dtype":"U8","shape":[4],"data_offsets":[4,0]})", "data_offsets [4, 0] are not inside"},
      {R"({"dtype":"U8","shape":[5],"data_offsets":[0,5]})", "not inside the file's 4 bytes of data"},
      {R"({"dtype":"U8","shape":[4],"data_offsets":[9223372036854775803,9223372036854775807]})",
       "not inside"},
      {R"({"dtype":"U8","shape":[3],"data_offsets":[0,4]})",
       "shape [3] of U8 needs 3 bytes, data_offsets [0, 4] hold 4"},
      {R"({"dtype":"U8","shape":[3],"data_offsets":[1,4]})",
       "begins at byte 1 of the data, expected 0: a gap"},
      {R"({"dtype":"U8","shape":[3],"data_offsets":[0,3]})", "end at byte 3 of the data, which has 4 bytes"},
  };
  for (const auto& [entry, message] : cases)
    EXPECT_TRUE(contains(refusal(file_of(fmt::format("{{\"w\":{}}}", entry), 4)), message)) << entry;
}

std::string two_tensors(int a_begin, int a_end, int b_begin, int b_end) {
  return fmt::format(
      R"({{"a":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}},"b":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}}}})",
      a_end - a_begin, a_begin, a_end, b_end - b_begin, b_begin, b_end);
}

TEST(Safetensors, OverlapsAndGapsAreRefusedInAnyOrder) {
  EXPECT_TRUE(parse(file_of(two_tensors(0, 3, 3, 8), 8)));
  EXPECT_TRUE(parse(file_of(two_tensors(5, 8, 0, 5), 8)));
  EXPECT_TRUE(parse(file_of(two_tensors(0, 0, 0, 8), 8)));
  EXPECT_TRUE(contains(refusal(file_of(two_tensors(0, 5, 3, 8), 8)),
                       "tensor b: begins at byte 3 of the data, "
                       "expected 5: it overlaps another tensor"));
  EXPECT_TRUE(contains(refusal(file_of(two_tensors(0, 8, 0, 8), 8)), "it overlaps another tensor"));
  EXPECT_TRUE(contains(refusal(file_of(two_tensors(0, 3, 4, 8), 8)),
                       "tensor b: begins at byte 4 of the data, "
                       "expected 3: a gap before it"));
  EXPECT_TRUE(
      contains(refusal(file_of(two_tensors(0, 3, 3, 8), 9)), "end at byte 8 of the data, which has 9"));
  EXPECT_TRUE(contains(refusal(file_of("{}", 1)), "end at byte 0 of the data, which has 1"));
}

TEST(Safetensors, HostileNamesAreEscapedInMessages) {
  const std::string name = R"(\u001b[2J)" + std::string(100000, 'x');
  const std::string message = refusal(file_of("{\"" + name + "\":7}", 0));
  EXPECT_TRUE(contains(message, "tensor \\x1b[2Jxxx"));
  EXPECT_LT(message.size(), 400u);
}

TEST(Safetensors, ViewsOutliveTheFileObject) {
  const TemporaryFolder folder;
  Random random(std::random_device{}());
  const StoredTensor tensor = test::random_tensor(random, "w", DType::f32, {100});
  ASSERT_TRUE(write_all(folder.path() / "a", {tensor}, {}));
  const TensorView view = SafetensorsFile::open(folder.path() / "a")->tensors().at("w");
  expect_equal(view, tensor);
  EXPECT_EQ(view.elements(), 100);
}

TEST(Safetensors, TensorBytesRefusesOverflow) {
  EXPECT_EQ(tensor_bytes({"w", DType::f32, {2, 3}}).value(), 24u);
  EXPECT_EQ(tensor_bytes({"w", DType::f64, {}}).value(), 8u);
  EXPECT_EQ(tensor_bytes({"w", DType::f64, {7, 0}}).value(), 0u);
  EXPECT_EQ(tensor_bytes({"w", DType::u8, {INT64_MAX}}).value(), static_cast<std::uint64_t>(INT64_MAX));
  EXPECT_EQ(tensor_bytes({"w", DType::u16, {INT64_MAX}}).error().code, ErrorCode::bad_input);
  EXPECT_EQ(tensor_bytes({"w", DType::u8, {-1}}).error().message,
            "tensor w: expected extents of at least 0, got -1");
}

TEST(SafetensorsWriter, RefusesWhatNoReaderTakes) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "a";
  const auto code = [&](std::vector<TensorSpec> specs, const Metadata& metadata = {}) {
    return SafetensorsWriter::create(path, std::move(specs), metadata).error().code;
  };
  EXPECT_EQ(code({{"w", DType::u8, {1}}, {"w", DType::u8, {1}}}), ErrorCode::bad_input);
  EXPECT_EQ(code({{"__metadata__", DType::u8, {1}}}), ErrorCode::bad_input);
  EXPECT_EQ(code({{"\xff", DType::u8, {1}}}), ErrorCode::bad_input);
  EXPECT_EQ(code({{"w", DType::u8, {-1}}}), ErrorCode::bad_input);
  EXPECT_EQ(code({{"v", DType::u8, {INT64_MAX}}, {"w", DType::u8, {1}}}), ErrorCode::bad_input);
  EXPECT_EQ(code({}, {{"a", "\xff"}}), ErrorCode::bad_input);
  EXPECT_EQ(code({{std::string(100000001, 'x'), DType::u8, {1}}}), ErrorCode::bad_input);
  EXPECT_FALSE(fs::exists(path));
}

TEST(SafetensorsWriter, WrongAmountsAreInternal) {
  const TemporaryFolder folder;
  auto writer = SafetensorsWriter::create(folder.path() / "a", {{"w", DType::u8, {4}}}, {}).value();
  const std::vector<std::byte> bytes(5);
  EXPECT_EQ(writer.append(bytes).error().code, ErrorCode::internal);
  ASSERT_TRUE(writer.append(std::span(bytes).first(3)));
  EXPECT_EQ(writer.finish().error().code, ErrorCode::internal);
  ASSERT_TRUE(writer.append(std::span(bytes).first(1)));
  EXPECT_TRUE(writer.finish());
}

TEST(SafetensorsWriter, FullDiskAndImpossiblePathAreOutOfResources) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "/dev/full does not exist here";
  const std::vector<TensorSpec> specs{{"w", DType::u8, {4}}};
  EXPECT_EQ(SafetensorsWriter::create("/dev/full", specs, {}).error().code, ErrorCode::out_of_resources);
  EXPECT_EQ(SafetensorsWriter::create("/dev/null/under/a/file", specs, {}).error().code,
            ErrorCode::out_of_resources);
}

}  // namespace
}  // namespace optiq::io
