#include "optiq/io/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <fstream>
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

constexpr const char* kIndex = "model.safetensors.index.json";

void write_text(const fs::path& path, std::string_view text) {
  std::ofstream(path) << text;
}

Status write_checkpoint(const fs::path& folder, const std::vector<StoredTensor>& tensors,
                        std::uint64_t limit) {
  OPTIQ_TRY(auto writer, CheckpointWriter::create(folder, layout_shards(test::specs_of(tensors), limit)));
  for (const StoredTensor& tensor : tensors) OPTIQ_CHECK(writer.write(tensor.spec.name, tensor.bytes));
  OPTIQ_CHECK(writer.finish(1234));
  return write_file_atomically(folder / "config.json", R"({"model_type":"llama"})");
}

std::uint64_t safetensors_bytes(const fs::path& folder) {
  std::uint64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".safetensors") bytes += entry.file_size();
  return bytes;
}

void expect_equal(const Checkpoint& checkpoint, const std::vector<StoredTensor>& tensors) {
  ASSERT_EQ(checkpoint.tensors().size(), tensors.size());
  for (const StoredTensor& tensor : tensors) {
    const TensorView view = checkpoint.require(tensor.spec.name).value();
    EXPECT_EQ(view.dtype, tensor.spec.dtype);
    EXPECT_EQ(view.shape, tensor.spec.shape);
    EXPECT_TRUE(std::ranges::equal(view.bytes, tensor.bytes)) << tensor.spec.name;
  }
}

TEST(Checkpoint, RoundTripInOneFile) {
  const TemporaryFolder folder;
  Random random(std::random_device{}());
  const auto tensors = test::random_tensors(random);
  ASSERT_TRUE(write_checkpoint(folder.path(), tensors, kShardLimitBytes));
  EXPECT_TRUE(fs::exists(folder.path() / "model.safetensors"));
  const auto checkpoint = Checkpoint::open(folder.path()).value();
  expect_equal(checkpoint, tensors);
  EXPECT_EQ(checkpoint.config().at("model_type"), "llama");
  EXPECT_EQ(checkpoint.find("no.such"), nullptr);
  EXPECT_EQ(checkpoint.require("no.such").error().message,
            folder.path().string() + ": tensor no.such is missing");
}

TEST(Checkpoint, RoundTripInShardsAndExactBytes) {
  Random random(std::random_device{}());
  const auto tensors = test::random_tensors(random);
  for (const std::uint64_t limit : {1, 300, 700, 2000, 100000}) {
    const TemporaryFolder folder;
    ASSERT_TRUE(write_checkpoint(folder.path(), tensors, limit));
    const ShardLayout layout = layout_shards(test::specs_of(tensors), limit);
    const auto checkpoint = Checkpoint::open(folder.path()).value();
    expect_equal(checkpoint, tensors);
    EXPECT_EQ(layout.total_bytes, safetensors_bytes(folder.path()));
    EXPECT_EQ(checkpoint.file_bytes(), layout.total_bytes);
    for (std::size_t i = 0; i < layout.file_names.size(); ++i) {
      if (layout.tensors[i].size() > 1) {
        EXPECT_LE(fs::file_size(folder.path() / layout.file_names[i]), limit);
      }
    }
  }
}

TEST(Checkpoint, ShardsAreFilledGreedilyAndNamedByCount) {
  const std::vector<TensorSpec> specs{
      {"a", DType::u8, {600}}, {"b", DType::u8, {300}}, {"c", DType::u8, {5000}}, {"d", DType::u8, {1}}};
  const ShardLayout layout = layout_shards(specs, 1200);
  EXPECT_EQ(layout.file_names,
            (std::vector<std::string>{"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                                      "model-00003-of-00003.safetensors"}));
  EXPECT_EQ(layout.tensors[0].size(), 2u);
  EXPECT_EQ(layout.tensors[1].at(0).name, "c");
  EXPECT_EQ(layout.tensors[2].at(0).name, "d");
  EXPECT_EQ(layout_shards(specs).file_names, std::vector<std::string>{"model.safetensors"});
}

TEST(Checkpoint, LimitIsMetToTheByte) {
  const std::vector<TensorSpec> specs{{"a", DType::u8, {600}}, {"b", DType::u8, {300}}};
  const std::uint64_t one_file = layout_shards(specs).total_bytes;
  EXPECT_EQ(layout_shards(specs, one_file).file_names.size(), 1u);
  EXPECT_EQ(layout_shards(specs, one_file - 1).file_names.size(), 2u);
}

TEST(Checkpoint, NoTensorsGiveOneFile) {
  const TemporaryFolder folder;
  const ShardLayout layout = layout_shards({});
  auto writer = CheckpointWriter::create(folder.path(), layout).value();
  ASSERT_TRUE(writer.finish(0));
  EXPECT_EQ(safetensors_bytes(folder.path()), layout.total_bytes);
}

TEST(Checkpoint, IndexListsEveryTensorAndItsFile) {
  const TemporaryFolder folder;
  Random random(1);
  ASSERT_TRUE(write_checkpoint(
      folder.path(),
      {test::random_tensor(random, "z", DType::f32, {10}), test::random_tensor(random, "a", DType::u8, {7})},
      1));
  const Json expected =
      parse_json(R"({"metadata": {"total_size": 47, "total_parameters": 1234}, "weight_map": {
      "a": "model-00002-of-00002.safetensors", "z": "model-00001-of-00002.safetensors"}})",
                 "expected")
          .value();
  EXPECT_EQ(read_json_file(folder.path() / kIndex).value(), expected);
  const auto file = SafetensorsFile::open(folder.path() / "model-00001-of-00002.safetensors").value();
  EXPECT_EQ(file.metadata().at("format"), "mlx");
}

class CheckpointErrors : public testing::Test {
 protected:
  void SetUp() override {
    Random random(std::random_device{}());
    ASSERT_TRUE(write_checkpoint(folder_.path(),
                                 {test::random_tensor(random, "a", DType::f32, {10}),
                                  test::random_tensor(random, "b", DType::u8, {7})},
                                 1));
  }

  void write_index(const std::string& weight_map) {
    write_text(path(kIndex), "{\"weight_map\": " + weight_map + "}");
  }
  fs::path path(const std::string& name) { return folder_.path() / name; }

  std::string refusal() {
    const auto checkpoint = Checkpoint::open(folder_.path());
    if (checkpoint) return "accepted";
    EXPECT_EQ(checkpoint.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(contains(checkpoint.error().message, folder_.path().string()));
    return checkpoint.error().message;
  }

  static constexpr const char* kFirst = "model-00001-of-00002.safetensors";
  static constexpr const char* kSecond = "model-00002-of-00002.safetensors";
  TemporaryFolder folder_;
};

TEST_F(CheckpointErrors, MissingFiles) {
  fs::remove(path(kSecond));
  EXPECT_TRUE(contains(
      refusal(), "model-00002-of-00002.safetensors: listed in model.safetensors.index.json, but missing"));
  fs::remove(path(kIndex));
  EXPECT_TRUE(
      contains(refusal(), "expected model.safetensors or model.safetensors.index.json, found neither"));
  fs::remove(path("config.json"));
  EXPECT_TRUE(contains(refusal(), "config.json: cannot open"));
}

TEST_F(CheckpointErrors, ConfigMustBeAnObject) {
  write_text(path("config.json"), "[]");
  EXPECT_TRUE(contains(refusal(), "config.json: expected an object, got array"));
}

TEST_F(CheckpointErrors, ShardNamesThatLeaveTheFolder) {
  for (const char* name :
       {"../model.safetensors", "/etc/model.safetensors", "sub/model.safetensors", "..\\\\model.safetensors",
        ".safetensors", "", "..", "config.json", "C:model.safetensors", "a\\u0000.safetensors"}) {
    write_index(fmt::format(R"({{"a": "{}"}})", name));
    EXPECT_TRUE(contains(refusal(), "\"a\": expected the name of a .safetensors file in the same folder"))
        << name;
  }
}

TEST_F(CheckpointErrors, MalformedIndexes) {
  write_index("{}");
  EXPECT_TRUE(contains(refusal(), "it lists no tensors"));
  write_index("[]");
  EXPECT_TRUE(contains(refusal(), "\"weight_map\": expected an object, got array"));
  write_index(R"({"a": 3})");
  EXPECT_TRUE(contains(refusal(), "\"a\": expected a file's name, got number"));
  write_index(fmt::format(R"({{"a": "{}", "a": "{}"}})", kFirst, kFirst));
  EXPECT_TRUE(contains(refusal(), "\"a\" appears twice"));
  write_text(path(kIndex), "{}");
  EXPECT_TRUE(contains(refusal(), "\"weight_map\": expected an object, but it is missing"));
  write_text(path(kIndex), "");
  EXPECT_TRUE(contains(refusal(), "not valid JSON"));
}

TEST_F(CheckpointErrors, IndexThatDisagreesWithTheShards) {
  write_index(fmt::format(R"({{"a": "{}", "c": "{}"}})", kFirst, kSecond));
  EXPECT_TRUE(contains(
      refusal(), "tensor c: expected it here, as model.safetensors.index.json says, but it is missing"));
  write_index(fmt::format(R"({{"a": "{}", "b": "{}"}})", kFirst, kFirst));
  EXPECT_TRUE(contains(
      refusal(), "tensor b: expected it here, as model.safetensors.index.json says, but it is missing"));
  write_index(fmt::format(R"({{"a": "{}", "b": "{}"}})", kSecond, kFirst));
  EXPECT_TRUE(contains(refusal(),
                       "tensor a: expected it here, as model.safetensors.index.json says, but it is in "
                       "model-00001-of-00002.safetensors"));
}

TEST_F(CheckpointErrors, TensorInTwoShards) {
  fs::copy_file(path(kFirst), path(kSecond), fs::copy_options::overwrite_existing);
  EXPECT_TRUE(contains(
      refusal(), "model-00002-of-00002.safetensors: tensor a is in model-00001-of-00002.safetensors too"));
}

TEST_F(CheckpointErrors, DamagedShardIsNamed) {
  fs::resize_file(path(kSecond), fs::file_size(path(kSecond)) - 1);
  EXPECT_TRUE(
      contains(refusal(), "model-00002-of-00002.safetensors: tensor b: data_offsets [0, 7] are not inside"));
}

TEST_F(CheckpointErrors, SymbolicLinksAreFollowed) {
  fs::create_directories(path("blobs"));
  fs::rename(path(kFirst), path("blobs") / "0123abc");
  fs::create_symlink(path("blobs") / "0123abc", path(kFirst));
  EXPECT_TRUE(Checkpoint::open(folder_.path()));
}

TEST(CheckpointWriter, OrderAndSizesAreChecked) {
  const TemporaryFolder folder;
  const std::vector<std::byte> bytes(8);
  auto writer = CheckpointWriter::create(folder.path(),
                                         layout_shards({{"a", DType::u8, {8}}, {"b", DType::u8, {8}}}, 1))
                    .value();
  EXPECT_EQ(writer.write("b", bytes).error().code, ErrorCode::internal);
  EXPECT_EQ(writer.write("a", std::span(bytes).first(7)).error().code, ErrorCode::internal);
  ASSERT_TRUE(writer.write("a", bytes));
  EXPECT_EQ(writer.finish(1).error().code, ErrorCode::internal);
  ASSERT_TRUE(writer.write("b", bytes));
  EXPECT_EQ(writer.write("c", bytes).error().code, ErrorCode::internal);
  EXPECT_TRUE(writer.finish(1));
  EXPECT_EQ(CheckpointWriter::create(folder.path(), {}).error().code, ErrorCode::internal);
}

/// Writes a checkpoint by way of a staging folder, as `optiq quantize` does.
Status write_staged(const fs::path& target, const std::vector<StoredTensor>& tensors) {
  OPTIQ_TRY(auto staged, StagedDirectory::create(target, "config.json"));
  OPTIQ_CHECK(write_checkpoint(staged.path(), tensors, 40000));
  return staged.commit();
}

/// No file of this process may grow past a size while this lives: what a full disk does, for root as well.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : old_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &old_limit_);
    const rlimit limit{bytes, old_limit_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_limit_);
    std::signal(SIGXFSZ, old_handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  void (*old_handler_)(int);
  rlimit old_limit_{};
};

TEST(CheckpointWriter, FullDiskInTheMiddleLeavesNothingBehind) {
  const TemporaryFolder folder;
  Random random(std::random_device{}());
  std::vector<StoredTensor> tensors;
  for (const char* name : {"a", "b", "c"})
    tensors.push_back(test::random_tensor(random, name, DType::f32, {5000 + std::ssize(tensors) * 1000}));
  {
    const FileSizeLimit limit(25000);  // Enough for the first shard, not for the second.
    EXPECT_EQ(write_staged(folder.path() / "model", tensors).error().code, ErrorCode::out_of_resources);
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
  EXPECT_TRUE(write_staged(folder.path() / "model", tensors));
  EXPECT_TRUE(Checkpoint::open(folder.path() / "model"));
}

TEST(CheckpointWriter, FailureKeepsTheOldCheckpoint) {
  const TemporaryFolder folder;
  Random random(std::random_device{}());
  const std::vector<StoredTensor> old{test::random_tensor(random, "a", DType::f32, {10})};
  ASSERT_TRUE(write_staged(folder.path() / "model", old));
  {
    const FileSizeLimit limit(1000);
    EXPECT_FALSE(
        write_staged(folder.path() / "model", {test::random_tensor(random, "a", DType::f32, {1000})}));
  }
  expect_equal(Checkpoint::open(folder.path() / "model").value(), old);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

TEST(CheckpointWriter, TargetThatCannotHoldFilesIsOutOfResources) {
  const TemporaryFolder folder;
  write_text(folder.path() / "file", "");
  EXPECT_EQ(write_staged(folder.path() / "file" / "model", {}).error().code, ErrorCode::out_of_resources);
  EXPECT_EQ(CheckpointWriter::create(folder.path() / "missing", layout_shards({})).error().code,
            ErrorCode::out_of_resources);
}

TEST(Sidecar, CopiesTokenizerFilesOnly) {
  const TemporaryFolder from;
  const TemporaryFolder to;
  const std::vector<std::string> carried{
      "tokenizer.json",          "tokenizer_config.json", "tokenizer.model", "vocab.json",
      "special_tokens_map.json", "added_tokens.json",     "merges.txt",      "chat_template.jinja",
      "chat_template.json",      "generation_config.json"};
  for (const std::string& name : carried) write_text(from.path() / name, "content of " + name);
  for (const char* name : {"README.md", "LICENSE", "config.json", "model.safetensors", "modeling.py"})
    write_text(from.path() / name, "x");
  write_text(from.path() / "merges.txt", "");
  ASSERT_TRUE(copy_sidecar_files(from.path(), to.path()));
  EXPECT_EQ(std::distance(fs::directory_iterator(to.path()), {}), std::ssize(carried));
  for (const std::string& name : carried)
    EXPECT_EQ(read_text_file(to.path() / name).value(), read_text_file(from.path() / name).value());
  EXPECT_EQ(read_text_file(to.path() / "vocab.json").value(), "content of vocab.json");
}

TEST(Sidecar, CopyOntoItselfKeepsTheFiles) {
  const TemporaryFolder folder;
  write_text(folder.path() / "tokenizer.json", "{}");
  ASSERT_TRUE(copy_sidecar_files(folder.path(), folder.path()));
  EXPECT_EQ(read_text_file(folder.path() / "tokenizer.json").value(), "{}");
}

TEST(Sidecar, NoneIsFineAndErrorsAreReported) {
  const TemporaryFolder from;
  const TemporaryFolder to;
  EXPECT_TRUE(copy_sidecar_files(from.path(), to.path()));
  write_text(from.path() / "tokenizer.json", "{}");
  EXPECT_EQ(copy_sidecar_files(from.path(), to.path() / "missing").error().code, ErrorCode::out_of_resources);
  fs::create_directories(from.path() / "vocab.json");
  EXPECT_EQ(copy_sidecar_files(from.path(), to.path()).error().code, ErrorCode::bad_input);
}

}  // namespace
}  // namespace optiq::io
