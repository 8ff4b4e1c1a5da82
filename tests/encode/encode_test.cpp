#include "optiq/encode/encode.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <fstream>

#include "small_model.h"
#include "support/contains.h"
#include "support/seed.h"
#include "support/temporary_folder.h"

namespace optiq::encode {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;
using test::contains;

class Encode : public ::testing::Test {
 protected:
  void SetUp() override { write_source(source_folder(), tensors_); }

  [[nodiscard]] fs::path source_folder() const { return folder_.path() / "source"; }
  [[nodiscard]] fs::path out() const { return folder_.path() / "out"; }
  [[nodiscard]] io::Checkpoint source() const { return io::Checkpoint::open(source_folder()).value(); }

  /// The bytes of a source tensor.
  [[nodiscard]] const std::vector<std::byte>& bytes(const std::string& name) const {
    return std::ranges::find(tensors_, name, [](const auto& tensor) { return tensor.spec.name; })->bytes;
  }

  [[nodiscard]] quant::QuantizedMatrix expected(const plan::PlannedModule& module,
                                                std::span<const float> importance = {}) const {
    const quant::MatrixView view{module.out_features, module.in_features, DType::bf16,
                                 bytes(module.name + ".weight")};
    return quant::encode(module.encoder, view, module.format, DType::bf16, {importance}, "w").value();
  }

  void encode(const plan::Plan& plan, const profile::Importance& importance = {},
              const EncodeOptions& options = {}) const {
    const Status status = encode_checkpoint(source(), plan, {importance, {}}, out(), options);
    ASSERT_TRUE(status) << status.error().message;
  }

  [[nodiscard]] std::string content(const std::string& file) const {
    return read_text_file(out() / file).value();
  }

  test::TemporaryFolder folder_;
  Random random_{test::seed()};
  std::vector<test::StoredTensor> tensors_ = small_tensors(random_);
};

std::vector<std::byte> to_bytes(mx::array array) {
  array = mx::contiguous(array);
  array.eval();
  return {array.data<std::byte>(), array.data<std::byte>() + array.nbytes()};
}

template <class T>
std::vector<std::byte> to_bytes(const std::vector<T>& values) {
  const auto span = std::as_bytes(std::span(values));
  return {span.begin(), span.end()};
}

TEST_F(Encode, MlxReadsWhatTheEncodersGave) {
  const plan::Plan plan = small_plan({8, 32}, {3, 64}, {5, 128});
  profile::Importance importance;
  for (int i = 0; i < 256; ++i)
    importance[kDown].push_back(static_cast<float>(std::exp(2 * random_.normal())));
  encode(plan, importance);
  const auto loaded = mx::load_safetensors((out() / "model.safetensors").string()).first;
  for (const plan::PlannedModule& module : plan.modules) {
    SCOPED_TRACE(module.name);
    const quant::QuantizedMatrix matrix =
        expected(module, module.name == kDown ? importance[kDown] : std::vector<float>());
    const mx::array& scales = loaded.at(module.name + ".scales");
    const mx::array& biases = loaded.at(module.name + ".biases");
    EXPECT_EQ(to_bytes(loaded.at(module.name + ".weight")), to_bytes(matrix.weight));
    EXPECT_EQ(to_bytes(scales), matrix.scales);
    EXPECT_EQ(to_bytes(biases), matrix.biases);

    const mx::array dense =
        mx::dequantize(loaded.at(module.name + ".weight"), mx::astype(scales, mx::float32),
                       mx::astype(biases, mx::float32), module.format.group_size, module.format.bits);
    const auto width = static_cast<std::size_t>(module.in_features);
    std::vector<float> rows(static_cast<std::size_t>(module.out_features) * width, -1e30f);
    for (std::int64_t row = 0; row < module.out_features; ++row) {
      quant::dequantize_row(matrix, row,
                            std::span(rows).subspan(static_cast<std::size_t>(row) * width, width));
    }
    EXPECT_EQ(to_bytes(dense), to_bytes(rows));
  }
  // The importance reached the encoder.
  EXPECT_NE(expected(plan.modules[2]).weight, expected(plan.modules[2], importance[kDown]).weight);
}

TEST_F(Encode, RtnGivesTheBytesOfMlxQuantize) {
  encode(small_plan({4, 64}));
  const auto before = mx::load_safetensors((source_folder() / "model.safetensors").string()).first;
  const auto after = mx::load_safetensors((out() / "model.safetensors").string()).first;
  const auto parts = mx::quantize(before.at(kEmbedding + ".weight"), 64, 4);
  EXPECT_EQ(to_bytes(after.at(kEmbedding + ".weight")), to_bytes(parts[0]));
  EXPECT_EQ(to_bytes(after.at(kEmbedding + ".scales")), to_bytes(parts[1]));
  EXPECT_EQ(to_bytes(after.at(kEmbedding + ".biases")), to_bytes(parts[2]));
}

TEST_F(Encode, CopiesTheRestAndNothingElse) {
  encode(small_plan());
  const io::Checkpoint written = io::Checkpoint::open(out()).value();
  EXPECT_EQ(written.tensors().size(), 9u);  // two modules of three tensors, a dense one, two fixed
  for (const std::string& name : {kUp + ".weight", kUp + ".bias", std::string("model.norm.weight")}) {
    const io::TensorView view = written.require(name).value();
    EXPECT_EQ(view.dtype, DType::bf16);
    EXPECT_TRUE(std::ranges::equal(view.bytes, bytes(name))) << name;
  }
  EXPECT_EQ(content("tokenizer.json"), R"({"model":"of this checkpoint"})");
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(out())) files.push_back(entry.path().filename());
  std::ranges::sort(files);
  EXPECT_EQ(files,
            (std::vector<std::string>{"config.json", "model.safetensors", "model.safetensors.index.json",
                                      "optiq.json", "tokenizer.json"}));
  EXPECT_EQ(written.file_bytes(), small_plan().bytes);
}

TEST_F(Encode, NamesWhatAFoldedSourceWasMadeOf) {
  encode(small_plan());
  EXPECT_EQ(parse_json(content("optiq.json"), "optiq.json")->count("folds"), 0u);
  must(write_file_atomically(
      source_folder() / "optiq-fold.json",
      R"({"format":"optiq-fold","version":1,"source":"/a","source_bytes":7,"folds":"r2"})"));
  encode(small_plan());
  const Json manifest = parse_json(content("optiq.json"), "optiq.json").value();
  EXPECT_EQ(manifest["source"], "/a");
  EXPECT_EQ(manifest["source_bytes"], 7);
  EXPECT_EQ(manifest["folds"], "r2");
  EXPECT_TRUE(verify_checkpoint(out()));
  must(write_file_atomically(source_folder() / "optiq-fold.json", "{"));
  EXPECT_FALSE(encode_checkpoint(source(), small_plan(), {}, out()));
}

TEST_F(Encode, ListsEveryModuleInTheConfigAndKeepsTheRestInOrder) {
  encode(small_plan());
  const Json quantization = Json::parse(
      R"({"group_size":64,"bits":3,"mode":"affine","model.embed_tokens":{"group_size":32,"bits":8},
          "model.layers.0.mlp.up_proj":false,"model.layers.0.mlp.down_proj":{"group_size":64,"bits":3}})");
  Json expected_config =
      Json::parse(R"({"zebra":1,"model_type":"llama","architectures":["X"],"apple":{"b":2,"a":1}})");
  expected_config["quantization"] = quantization;
  expected_config["quantization_config"] = quantization;
  EXPECT_EQ(Json::parse(content("config.json")).dump(), expected_config.dump());
}

TEST_F(Encode, AnAllDensePlanIsAPlainCheckpoint) {
  encode(small_plan({16, 0}, {16, 0}, {16, 0}));
  const Json config = Json::parse(content("config.json"));
  EXPECT_FALSE(config.contains("quantization"));
  EXPECT_FALSE(config.contains("quantization_config"));
  EXPECT_TRUE(verify_checkpoint(out()));
}

TEST_F(Encode, ShardsAndVerifies) {
  encode(small_plan(), {}, {.shard_limit_bytes = 20000});
  EXPECT_TRUE(fs::exists(out() / "model-00002-of-00003.safetensors"));
  EXPECT_FALSE(fs::exists(out() / "model.safetensors"));
  const auto verification = verify_checkpoint(out());
  ASSERT_TRUE(verification) << verification.error().message;
  EXPECT_EQ(verification->modules, (std::vector<std::string>{kEmbedding, kUp, kDown}));
}

TEST_F(Encode, WritesTheSameBytesAgainOverItself) {
  encode(small_plan());
  const std::string first = content("model.safetensors") + content("config.json") + content("optiq.json");
  encode(small_plan({4, 32}));
  EXPECT_NE(content("model.safetensors") + content("config.json") + content("optiq.json"), first);
  encode(small_plan());
  EXPECT_EQ(content("model.safetensors") + content("config.json") + content("optiq.json"), first);
}

TEST_F(Encode, ReportsItsProgress) {
  std::vector<std::string> seen;
  double last = -1;
  const Progress progress = [&](std::string_view what, double done, double total) {
    seen.emplace_back(what);
    EXPECT_GT(done, last);
    EXPECT_EQ(total, static_cast<double>(small_plan().model.parameters));
    last = done;
  };
  ASSERT_TRUE(encode_checkpoint(source(), small_plan(), {}, out(), {}, progress));
  EXPECT_EQ(seen, (std::vector<std::string>{"encoding", "encoding", "encoding", "finishing"}));
  EXPECT_EQ(last, static_cast<double>(small_plan().model.parameters));
}

void expect_error(const Status& status, ErrorCode code, const std::string& part) {
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, code) << status.error().message;
  EXPECT_TRUE(contains(status.error().message, part));
}

TEST_F(Encode, RefusesASourceThatDoesNotFitThePlan) {
  encode(small_plan({4, 32}));
  const std::string before = content("model.safetensors");

  plan::Plan other = small_plan();
  other.modules[1].name = "model.layers.0.mlp.gate_proj";
  complete(other);
  expect_error(encode_checkpoint(source(), other, {}, out()), ErrorCode::bad_input,
               "gate_proj.weight is missing");
  other = small_plan();
  other.modules[2].out_features = 130;
  complete(other);
  expect_error(encode_checkpoint(source(), other, {}, out()), ErrorCode::bad_input, "[130, 256]");
  other = small_plan();
  other.model.dtype = DType::f16;
  complete(other);
  expect_error(encode_checkpoint(source(), other, {}, out()), ErrorCode::bad_input, "F16");
  other = small_plan();
  other.bytes += 1;
  expect_error(encode_checkpoint(source(), other, {}, out()), ErrorCode::bad_input, "plan");
  expect_error(encode_checkpoint(source(), small_plan(), {{{kDown, {1.0f}}}, {}}, out()),
               ErrorCode::bad_input, "importance of 256 channels");
  expect_error(encode_checkpoint(io::Checkpoint::open(out()).value(), small_plan(), {}, out()),
               ErrorCode::bad_input, "full-precision");

  EXPECT_EQ(content("model.safetensors"), before);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), {}), 2)
      << "a staging folder was left behind";
}

TEST_F(Encode, NamesAWeightThatIsNotFinite) {
  const std::uint16_t infinity = 0x7f80;
  std::memcpy(&tensors_[1].bytes[2 * (5 * 256 + 9)], &infinity, 2);
  write_source(source_folder(), tensors_);
  expect_error(encode_checkpoint(source(), small_plan(), {}, out()), ErrorCode::bad_input,
               kDown + ".weight: row 5, column 9");
  EXPECT_FALSE(fs::exists(out()));
}

TEST_F(Encode, RefusesATargetThatIsNotItsOwn) {
  std::ofstream(out()) << "a file";
  expect_error(encode_checkpoint(source(), small_plan(), {}, out()), ErrorCode::bad_input, "found a file");
  expect_error(encode_checkpoint(source(), small_plan(), {}, out() / "below"), ErrorCode::out_of_resources,
               "cannot create");
  expect_error(encode_checkpoint(source(), small_plan(), {}, source_folder()), ErrorCode::bad_input,
               "refusing");
  EXPECT_TRUE(fs::exists(source_folder() / "README.md"));
}

/// A child begins to encode `plan` with a record behind every tensor, and is killed in front of module
/// `modules` (from 1).
void encode_and_kill(const io::Checkpoint& source, const plan::Plan& plan, const fs::path& out, int modules) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    int begun = 0;
    const auto stop = [&](std::string_view, double, double) {
      if (++begun < modules) return;
      (void)!::write(ready[1], "x", 1);
      while (true) ::pause();
    };
    (void)encode_checkpoint(source, plan, {}, out, {.record_seconds = 0}, stop);
    ::_exit(0);
  }
  ::close(ready[1]);
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1) << "the child ended early";
  ::close(ready[0]);
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
}

TEST_F(Encode, KilledHalfWayLeavesTheOldFolder) {
  encode(small_plan({4, 32}));
  const std::string before = content("model.safetensors") + content("config.json") + content("optiq.json");
  encode_and_kill(source(), small_plan(), out(), 3);
  EXPECT_EQ(content("model.safetensors") + content("config.json") + content("optiq.json"), before);
  EXPECT_TRUE(verify_checkpoint(out()));
  encode(small_plan());
  EXPECT_TRUE(verify_checkpoint(out()));
}

TEST_F(Encode, GoesOnWhereAKilledOneWas) {
  encode(small_plan());
  const std::string whole = content("model.safetensors");
  fs::remove_all(out());
  const fs::path partial = folder_.path() / ".out.partial" / "model.safetensors";
  for (const int modules : {1, 2, 3, 4}) {
    encode_and_kill(source(), small_plan(), out(), modules);
    const std::string written = read_text_file(partial).value();
    EXPECT_EQ(whole.substr(0, written.size()), written);
    if (modules < 4) continue;
    // All modules are there; a kill in front of the first leaves them, so they are not written again.
    encode_and_kill(source(), small_plan(), out(), 1);
    EXPECT_EQ(read_text_file(partial).value(), written);
  }
  encode(small_plan());
  EXPECT_EQ(content("model.safetensors"), whole);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), {}), 2) << "debris";
}

TEST_F(Encode, DoesNotTrustWhatAKilledOneLeft) {
  encode(small_plan());
  const std::string whole = content("model.safetensors");
  const fs::path partial = folder_.path() / ".out.partial" / "model.safetensors";
  // Another byte, fewer bytes, no file.
  for (const int damage : {0, 1, 2}) {
    SCOPED_TRACE(damage);
    fs::remove_all(out());
    encode_and_kill(source(), small_plan(), out(), 4);
    const std::string written = read_text_file(partial).value();
    if (damage == 0) {
      std::fstream file(partial, std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(static_cast<std::streamoff>(written.size() / 2));
      file.put(static_cast<char>(written[written.size() / 2] ^ 1));
    }
    if (damage == 1) fs::resize_file(partial, written.size() / 2);
    if (damage == 2) fs::remove(partial);
    encode(small_plan());
    EXPECT_EQ(content("model.safetensors"), whole);
  }
}

TEST_F(Encode, AnotherPlanBeginsAnew) {
  encode(small_plan({4, 32}));
  const std::string whole = content("model.safetensors");
  fs::remove_all(out());
  encode_and_kill(source(), small_plan(), out(), 3);
  encode(small_plan({4, 32}));
  EXPECT_EQ(content("model.safetensors"), whole);
}

TEST_F(Encode, StreamedSourcesGiveTheSameBytes) {
  encode(small_plan());
  const std::string whole = content("model.safetensors");
  const auto streamed = io::Checkpoint::open(source_folder(), Access::streamed).value();
  const EncodeOptions options{.memory = {memory_needed(streamed, small_plan()), folder_.path()}};
  ASSERT_TRUE(encode_checkpoint(streamed, small_plan(), {}, out(), options));
  EXPECT_EQ(content("model.safetensors"), whole);
}

TEST_F(Encode, RefusesMemoryThatIsTooLittle) {
  const std::uint64_t least = memory_needed(source(), small_plan());
  const EncodeOptions options{.memory = {least - 1, folder_.path()}};
  expect_error(encode_checkpoint(source(), small_plan(), {}, out(), options), ErrorCode::impossible_budget,
               "the least that would do");
  EXPECT_FALSE(fs::exists(out()));
}

}  // namespace
}  // namespace optiq::encode
