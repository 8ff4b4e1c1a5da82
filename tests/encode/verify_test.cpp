// verify_checkpoint against a folder that is bent in one place at a time.
#include <gtest/gtest.h>

#include <functional>

#include "optiq/encode/encode.h"
#include "small_model.h"
#include "support/contains.h"
#include "support/seed.h"
#include "support/temporary_folder.h"

namespace optiq::encode {
namespace {

namespace fs = std::filesystem;

class Verify : public ::testing::Test {
 protected:
  void SetUp() override {
    Random random(test::seed());
    const fs::path source = folder_.path() / "source";
    write_source(source, small_tensors(random));
    const Status status = encode_checkpoint(io::Checkpoint::open(source).value(), small_plan(), {}, out());
    ASSERT_TRUE(status) << status.error().message;
  }

  [[nodiscard]] fs::path out() const { return folder_.path() / "out"; }

  void edit(const std::string& file, const std::function<void(Json&)>& change) const {
    Json json = read_json_file(out() / file).value();
    change(json);
    must(write_file_atomically(out() / file, json.dump()));
  }

  /// Replaces the plan in optiq.json by a consistent one.
  void set_plan(const plan::Plan& plan) const {
    edit("optiq.json", [&](Json& json) { json["plan"] = plan::plan_to_json(plan); });
  }

  /// Writes the weights again, with some tensors changed.
  void rewrite(const std::function<void(std::vector<test::StoredTensor>&)>& change) const {
    std::vector<test::StoredTensor> tensors;
    const io::Checkpoint checkpoint = io::Checkpoint::open(out()).value();
    for (const auto& [name, view] : checkpoint.tensors()) {
      tensors.push_back({{name, view.dtype, view.shape}, {view.bytes.begin(), view.bytes.end()}});
    }
    change(tensors);
    auto writer = io::CheckpointWriter::create(out(), io::layout_shards(test::specs_of(tensors))).value();
    for (const test::StoredTensor& tensor : tensors) must(writer.write(tensor.spec.name, tensor.bytes));
    must(writer.finish(1));
  }

  void expect_refused(const std::string& part) const {
    const auto verification = verify_checkpoint(out());
    ASSERT_FALSE(verification) << "expected: " << part;
    EXPECT_EQ(verification.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(test::contains(verification.error().message, part));
    EXPECT_TRUE(test::contains(verification.error().message, out().string()));
  }

  test::TemporaryFolder folder_;
};

test::StoredTensor& named(std::vector<test::StoredTensor>& tensors, const std::string& name) {
  return *std::ranges::find(tensors, name, [](const auto& tensor) { return tensor.spec.name; });
}

TEST_F(Verify, AcceptsWhatEncodeWrote) {
  const auto verification = verify_checkpoint(out());
  ASSERT_TRUE(verification) << verification.error().message;
  EXPECT_EQ(verification->modules, (std::vector<std::string>{kEmbedding, kUp, kDown}));
  EXPECT_EQ(verification->file_bytes, fs::file_size(out() / "model.safetensors"));
  EXPECT_EQ(verification->file_bytes, small_plan().bytes);
}

TEST_F(Verify, AcceptsTheSameTensorsInAnotherOrder) {
  rewrite([](std::vector<test::StoredTensor>& tensors) {
    std::vector<test::StoredTensor> moved;
    for (const io::TensorSpec& spec : plan::checkpoint_tensors(small_plan()))
      moved.push_back(named(tensors, spec.name));
    std::swap(named(moved, kDown + ".scales"),
              named(moved, kDown + ".biases"));  // of one size: so is the header
    tensors = moved;
  });
  const auto verification = verify_checkpoint(out());
  EXPECT_TRUE(verification) << verification.error().message;
}

TEST_F(Verify, SeesOtherBitsInTheConfig) {
  edit("config.json", [](Json& json) { json["quantization"][kDown]["bits"] = 4; });
  expect_refused("\"quantization\": " + kDown + ": the plan says");
}

TEST_F(Verify, SeesThatTheCopiesDiffer) {
  edit("config.json", [](Json& json) { json["quantization_config"][kEmbedding]["group_size"] = 64; });
  expect_refused("\"quantization_config\": " + kEmbedding);
}

TEST_F(Verify, SeesOtherDefaults) {
  edit("config.json", [](Json& json) { json["quantization"]["bits"] = 4; });
  expect_refused("\"quantization\": bits: the plan says 3, found 4");
}

TEST_F(Verify, SeesANumberForFalse) {
  edit("config.json", [](Json& json) { json["quantization"][kUp] = 0; });
  expect_refused(kUp + ": the plan says false, found 0");
}

TEST_F(Verify, SeesAModuleThatTheConfigLacks) {
  edit("config.json", [](Json& json) { json["quantization"].erase(kUp); });
  expect_refused(kUp + ": the plan says false, found nothing");
}

TEST_F(Verify, SeesAModuleThatOnlyTheConfigHas) {
  edit("config.json", [](Json& json) { json["quantization"]["lm_head"] = false; });
  expect_refused("lm_head is no module of the plan");
}

TEST_F(Verify, SeesAConfigWithoutQuantization) {
  edit("config.json", [](Json& json) { json.erase("quantization"); });
  expect_refused("\"quantization\": expected object, found null");
}

TEST_F(Verify, SeesAMissingTensor) {
  rewrite([](auto& tensors) {
    std::erase_if(tensors, [](auto& t) { return t.spec.name == kDown + ".biases"; });
  });
  expect_refused("tensor " + kDown + ".biases is missing");
}

TEST_F(Verify, SeesAStrayTensor) {
  rewrite([](auto& tensors) { tensors.push_back({{"stray", DType::u8, {1}}, {std::byte{1}}}); });
  expect_refused("tensor stray: the plan has none");
}

TEST_F(Verify, SeesAnotherShape) {
  rewrite([](auto& tensors) { named(tensors, kDown + ".scales").spec.shape = {256, 2}; });
  expect_refused("tensor " + kDown + ".scales: the plan says BF16 [128, 4], found BF16 [256, 2]");
}

TEST_F(Verify, SeesAnotherDtype) {
  rewrite([](auto& tensors) { named(tensors, kDown + ".scales").spec.dtype = DType::f16; });
  expect_refused("found F16 [128, 4]");
}

TEST_F(Verify, SeesAScaleThatIsNotFinite) {
  rewrite([](auto& tensors) { named(tensors, kDown + ".scales").bytes[3] = std::byte{0x7f}; });
  rewrite([](auto& tensors) { named(tensors, kDown + ".scales").bytes[2] = std::byte{0x80}; });
  expect_refused(kDown + ".scales: expected finite values");
}

TEST_F(Verify, SeesATruncatedFile) {
  fs::resize_file(out() / "model.safetensors", fs::file_size(out() / "model.safetensors") - 1);
  expect_refused("model.safetensors");
}

TEST_F(Verify, SeesALongerFile) {
  fs::resize_file(out() / "model.safetensors", fs::file_size(out() / "model.safetensors") + 1);
  expect_refused("model.safetensors");
}

/// A file of its own header padding: every tensor as planned, but not the file's size.
TEST_F(Verify, SeesAFileOfAnotherSize) {
  const std::string text = read_text_file(out() / "model.safetensors").value();
  std::uint64_t header = 0;
  std::memcpy(&header, text.data(), 8);
  const std::uint64_t longer = header + 8;
  std::string padded(8, '\0');
  std::memcpy(padded.data(), &longer, 8);
  padded += text.substr(8, header) + std::string(8, ' ') + text.substr(8 + header);
  must(write_file_atomically(out() / "model.safetensors", padded));
  expect_refused("bytes, the plan says");
}

TEST_F(Verify, SeesAStrayFile) {
  fs::copy_file(out() / "model.safetensors", out() / "model-extra.safetensors");
  expect_refused("model-extra.safetensors: the plan has no such file");
}

TEST_F(Verify, SeesATensorInAnotherFile) {
  edit("optiq.json", [](Json& json) { json["shard_limit_bytes"] = 20000; });
  expect_refused("the plan's layout puts it into model-00001-of-00003.safetensors");
}

TEST_F(Verify, SeesAPlanOfOtherFormats) {
  set_plan(small_plan({8, 32}, {4, 64}));
  expect_refused(kDown + ".weight: the plan says U32 [128, 32], found U32 [128, 24]");
}

/// 4 bits of 64 in place of 3 bits of 64 with the totals left as they were.
TEST_F(Verify, SeesAPlanThatContradictsItself) {
  edit("optiq.json", [](Json& json) { json["plan"]["modules"][2]["bits"] = 4; });
  expect_refused(kDown);
}

TEST_F(Verify, SeesAPlanWithoutAModule) {
  plan::Plan plan = small_plan();
  plan.modules.pop_back();
  complete(plan);
  set_plan(plan);
  expect_refused(kDown + ".biases: the plan has none");
}

TEST_F(Verify, SeesAForeignOrMissingManifest) {
  edit("optiq.json", [](Json& json) { json["format"] = "optiq-plan"; });
  expect_refused("format is \"optiq-plan\"");
  fs::remove(out() / "optiq.json");
  expect_refused("optiq.json: cannot open");
}

}  // namespace
}  // namespace optiq::encode
