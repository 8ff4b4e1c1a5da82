#include "optiq/io/gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "optiq/base/random.h"
#include "support/gguf_builder.h"

namespace optiq::io {
namespace {

using test::Bytes;
using test::GgufBuilder;
using Type = GgufTensorType;
using Value = GgufValueType;

constexpr std::uint64_t kHuge = 1ull << 63;

Result<GgufFile> parse(const std::vector<std::byte>& bytes) {
  return GgufFile::parse(bytes, "test.gguf");
}

/// Expects bad_input whose message names the file and holds every part.
template <class T>
void expect_refused(const Result<T>& result, std::initializer_list<std::string_view> parts) {
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code, ErrorCode::bad_input);
  EXPECT_NE(result.error().message.find("test.gguf"), std::string::npos) << result.error().message;
  for (const std::string_view part : parts)
    EXPECT_NE(result.error().message.find(part), std::string::npos)
        << part << " in: " << result.error().message;
}

void expect_refused(const GgufBuilder& builder, std::initializer_list<std::string_view> parts) {
  const std::vector<std::byte> bytes = builder.build();
  expect_refused(parse(bytes), parts);
}

TEST(Gguf, ReadsWhatThePythonPackageWrote) {
  const auto file = GgufFile::open(OPTIQ_TEST_DATA "/goldens/gguf_golden.gguf");
  ASSERT_TRUE(file) << file.error().message;
  const GgufMetadata& metadata = file->metadata();
  EXPECT_EQ(file->version(), 3u);
  EXPECT_EQ(file->alignment(), 32u);
  EXPECT_EQ(metadata.string("general.architecture").value(), "golden");
  EXPECT_EQ(metadata.integer("test.u8").value(), 200);
  EXPECT_EQ(metadata.integer("test.i8").value(), -100);
  EXPECT_EQ(metadata.integer("test.u16").value(), 60000);
  EXPECT_EQ(metadata.integer("test.i16").value(), -30000);
  EXPECT_EQ(metadata.integer("test.u32").value(), 4000000000);
  EXPECT_EQ(metadata.integer("test.i32").value(), -2000000000);
  EXPECT_EQ(metadata.integer("test.u64").value(), std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(metadata.integer("test.i64").value(), std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(metadata.number("test.f32").value(), 1e-5);
  EXPECT_EQ(metadata.number("test.f64").value(), 0.1);
  EXPECT_EQ(metadata.number("test.u8").value(), 200.0);
  EXPECT_TRUE(metadata.boolean("test.boolean").value());
  EXPECT_EQ(metadata.string("test.string").value(), "héllo\n");
  EXPECT_EQ(metadata.strings("test.strings").value(), (std::vector<std::string>{"a", "", "ĠĊ"}));
  EXPECT_EQ(metadata.integers("test.integers").value(), (std::vector<std::int64_t>{1, -2, 3}));
  EXPECT_EQ(metadata.numbers("test.numbers").value(), (std::vector<double>{0.5, -0.1}));
  const GgufTensor* tensor = file->find("Q4_K.blocks");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->type, Type::q4_k);
  EXPECT_EQ(tensor->shape, (std::vector<std::int64_t>{2, 512}));
  EXPECT_EQ(tensor->bytes.size(), 4u * 144u);
}

TEST(Gguf, ReadsVersion2AndAnotherAlignment) {
  GgufBuilder builder;
  builder.version = 2;
  builder.alignment = 64;
  builder.u32("general.alignment", 64).tensor("a", {3}, {1, 2, 3}).tensor("b", {1, 2}, {4, 5});
  const auto bytes = builder.build();
  const auto file = parse(bytes);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->alignment(), 64u);
  ASSERT_EQ(file->tensors().size(), 2u);
  const GgufTensor& b = *file->find("b");
  EXPECT_EQ(b.offset % 64, 0u);
  EXPECT_EQ(b.shape, (std::vector<std::int64_t>{1, 2}));
  float value = 0;
  std::memcpy(&value, b.bytes.data() + 4, 4);
  EXPECT_EQ(value, 5.0f);
}

TEST(Gguf, AnEmptyModelIsValid) {
  const auto bytes = GgufBuilder().build();
  const auto file = parse(bytes);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_TRUE(file->tensors().empty());
  EXPECT_EQ(file->find("a"), nullptr);
}

TEST(Gguf, RefusesOtherFormatsAndVersions) {
  GgufBuilder builder;
  builder.magic = "GGML";
  expect_refused(builder, {"\"GGUF\"", "GGML"});
  builder = {};
  builder.version = 1;
  expect_refused(builder, {"version 2 or 3", "got 1"});
  builder.version = 0x03000000u;
  expect_refused(builder, {"big-endian"});
}

TEST(Gguf, RefusesEveryTruncation) {
  const auto bytes = GgufBuilder()
                         .strings("s", {"one", "two"})
                         .u32("general.alignment", 32)
                         .tensor("a", {3}, {1, 2, 3})
                         .build();
  ASSERT_TRUE(parse(bytes));
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const std::vector<std::byte> head(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_FALSE(parse(head)) << size;
  }
}

TEST(Gguf, RefusesCountsThatTheFileCannotHold) {
  GgufBuilder builder;
  builder.tensor_count = kHuge;
  expect_refused(builder, {"9223372036854775808 tensors"});
  builder = {};
  builder.metadata_count = kHuge;
  expect_refused(builder, {"9223372036854775808 metadata entries"});
  for (const std::uint64_t count : {kHuge, kHuge - 1, std::uint64_t{1} << 61, ~std::uint64_t{0}}) {
    expect_refused(GgufBuilder().entry("k", Value::array, Bytes().put(Value::u64).put(count)),
                   {"\"k\"", "elements"});
    expect_refused(GgufBuilder().entry("k", Value::array, Bytes().put(Value::string).put(count)), {"\"k\""});
    expect_refused(GgufBuilder().entry("k", Value::string, Bytes().put(count)), {"\"k\"", "bytes"});
    expect_refused(
        GgufBuilder().entry("k", Value::array, Bytes().put(Value::string).put<std::uint64_t>(1).put(count)),
        {"\"k\"", "a string of"});
  }
}

TEST(Gguf, RefusesBadKeysAndValues) {
  expect_refused(GgufBuilder().u32("k", 1).u32("k", 2), {"\"k\"", "twice"});
  expect_refused(GgufBuilder().u32("", 1), {"length of 1 to 65535"});
  expect_refused(GgufBuilder().entry("k", static_cast<Value>(13), Bytes().put(0)), {"\"k\"", "got 13"});
  expect_refused(GgufBuilder().scalar<std::uint8_t>("k", Value::boolean, 2), {"\"k\"", "0 or 1", "got 2"});
  expect_refused(GgufBuilder().array<std::uint8_t>("k", Value::boolean, {1, 0, 7}), {"\"k\"", "got 7"});
  const Bytes nested = Bytes().put(Value::array).put<std::uint64_t>(1).put(Value::u8).put<std::uint64_t>(0);
  expect_refused(GgufBuilder().entry("k", Value::array, nested), {"\"k\"", "array of arrays"});
  for (const std::uint32_t alignment : {0u, 24u, 1u << 30})
    expect_refused(GgufBuilder().u32("general.alignment", alignment), {"general.alignment", "power of two"});
  expect_refused(GgufBuilder().string("general.alignment", "32"), {"general.alignment", "string"});
}

TEST(Gguf, RefusesBadTensorInfos) {
  const std::vector<std::byte> row(32 * 4);
  const auto with_data = [&](auto&&... info) {
    return GgufBuilder().tensor("data", Type::f32, {32}, row).info(info...);
  };
  expect_refused(with_data("data", Type::f32, std::vector<std::uint64_t>{1}, 0u), {"\"data\"", "twice"});
  expect_refused(with_data("t", Type::f32, std::vector<std::uint64_t>{}, 0u), {"\"t\"", "rank", "got 0"});
  expect_refused(with_data("t", Type::f32, std::vector<std::uint64_t>(5, 1), 0u), {"\"t\"", "rank", "got 5"});
  expect_refused(with_data("t", Type::f32, std::vector<std::uint64_t>{0}, 0u), {"\"t\"", "extents"});
  expect_refused(with_data("t", Type::f32, std::vector<std::uint64_t>{kHuge}, 0u), {"\"t\"", "extents"});
  expect_refused(with_data("t", Type::f32, std::vector<std::uint64_t>{1u << 31, 1u << 31, 4}, 0u),
                 {"\"t\"", "63 bits"});
  expect_refused(with_data("t", static_cast<Type>(4), std::vector<std::uint64_t>{32}, 0u),
                 {"\"t\"", "number 4"});
  expect_refused(with_data("t", Type::q4_k, std::vector<std::uint64_t>{2, 32}, 0u),
                 {"\"t\"", "256", "Q4_K", "got 32"});
  expect_refused(with_data("t", Type::f32, std::vector<std::uint64_t>{1}, 4u),
                 {"\"t\"", "multiple of 32", "got 4"});
  expect_refused(with_data("t", Type::f32, std::vector<std::uint64_t>{1}, 128u),
                 {"\"t\"", "offset 128", "128 bytes"});
  expect_refused(with_data("t", Type::f32, std::vector<std::uint64_t>{1}, ~31ull), {"\"t\""});
  expect_refused(with_data("t", Type::f32, std::vector<std::uint64_t>{1ull << 62}, 0u),
                 {"\"t\"", "128 bytes"});
  expect_refused(with_data("t", Type::f32, std::vector<std::uint64_t>{8}, 96u),
                 {"\"t\"", "overlaps \"data\""});
  expect_refused(with_data(std::string(65, 'x'), Type::f32, std::vector<std::uint64_t>{1}, 0u),
                 {"1 to 64", "got 65"});
}

TEST(Gguf, TypedAccessNamesKeyTypeAndOffset) {
  const auto bytes = GgufBuilder()
                         .u32("number", 7)
                         .string("text", "x")
                         .string("broken", "\xff")
                         .strings("brokens", {"ok", "\xed\xa0\x80"})
                         .f32("nan", std::numeric_limits<float>::quiet_NaN())
                         .scalar("big", Value::u64, kHuge)
                         .array<float>("inf", Value::f32, {1, std::numeric_limits<float>::infinity()})
                         .build();
  const auto file = parse(bytes);
  ASSERT_TRUE(file) << file.error().message;
  const GgufMetadata& metadata = file->metadata();
  expect_refused(metadata.integer("missing"), {"\"missing\"", "missing"});
  expect_refused(metadata.integer("text"), {"\"text\"", "an integer", "string", "offset"});
  expect_refused(metadata.integer("big"), {"\"big\"", "2^63"});
  expect_refused(metadata.number("nan"), {"\"nan\"", "finite"});
  expect_refused(metadata.number("text"), {"\"text\""});
  expect_refused(metadata.boolean("number"), {"\"number\"", "u32"});
  expect_refused(metadata.string("number"), {"\"number\"", "u32"});
  expect_refused(metadata.string("broken"), {"\"broken\"", "UTF-8", "\\xff"});
  expect_refused(metadata.strings("brokens"), {"\"brokens\"", "element 1", "UTF-8"});
  expect_refused(metadata.strings("number"), {"\"number\"", "array"});
  expect_refused(metadata.integers("brokens"), {"\"brokens\"", "element 0"});
  expect_refused(metadata.numbers("inf"), {"\"inf\"", "element 1"});
  EXPECT_EQ(metadata.integer_or("missing", 5).value(), 5);
  EXPECT_EQ(metadata.integer_or("number", 5).value(), 7);
  expect_refused(metadata.string_or("number", ""), {"\"number\""});
}

TEST(Gguf, RandomDamageIsRefusedOrHarmless) {
  const auto original = GgufBuilder()
                            .strings("s", {"one", "two"})
                            .array<std::int32_t>("i", Value::i32, {1, 2, 3})
                            .tensor("a", {2, 8}, std::vector<float>(16, 1.0f))
                            .tensor("b", {4}, {1, 2, 3, 4})
                            .build();
  Random random(std::random_device{}());
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    auto bytes = original;
    bytes[random.below(bytes.size())] = static_cast<std::byte>(random.next());
    const auto file = parse(bytes);
    if (!file) {
      EXPECT_EQ(file.error().code, ErrorCode::bad_input);
      continue;
    }
    ++accepted;
    for (const GgufTensor& tensor : file->tensors()) {
      EXPECT_GE(tensor.bytes.data(), bytes.data());
      EXPECT_LE(tensor.bytes.data() + tensor.bytes.size(), bytes.data() + bytes.size());
    }
  }
  EXPECT_GT(accepted, 0);
}

TEST(Gguf, ShortestDecimal) {
  EXPECT_EQ(shortest_decimal(1e-5f), 1e-5);
  EXPECT_EQ(shortest_decimal(500000.0f), 500000.0);
  EXPECT_EQ(shortest_decimal(0.1f), 0.1);
  EXPECT_TRUE(std::isnan(shortest_decimal(std::numeric_limits<float>::quiet_NaN())));
}

}  // namespace
}  // namespace optiq::io
