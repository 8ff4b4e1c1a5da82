#include "reference_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <random>

#include "optiq/base/half.h"
#include "optiq/base/random.h"
#include "optiq/io/checkpoint.h"
#include "optiq/io/gguf_import.h"
#include "support/contains.h"
#include "support/reference_model.h"
#include "support/temporary_folder.h"

namespace optiq::tools {
namespace {

namespace fs = std::filesystem;
using test::contains;
using Matrix = std::vector<double>;  // row-major

constexpr std::int64_t kHidden = 12, kIntermediate = 20, kHeads = 6, kKvHeads = 2, kHeadDim = 4, kLayers = 2;

std::vector<io::TensorSpec> tiny_tensors(bool biases) {
  std::vector<io::TensorSpec> specs{{"model.embed_tokens.weight", DType::f32, {7, kHidden}}};
  for (std::int64_t layer = 0; layer < kLayers; ++layer) {
    const std::string p = fmt::format("model.layers.{}.", layer);
    const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in) {
      specs.push_back({p + name + ".weight", DType::f32, {out, in}});
      if (biases) specs.push_back({p + name + ".bias", DType::f32, {out}});
    };
    specs.push_back({p + "input_layernorm.weight", DType::f32, {kHidden}});
    specs.push_back({p + "post_attention_layernorm.weight", DType::f32, {kHidden}});
    linear("self_attn.q_proj", kHeads * kHeadDim, kHidden);
    linear("self_attn.k_proj", kKvHeads * kHeadDim, kHidden);
    linear("self_attn.v_proj", kKvHeads * kHeadDim, kHidden);
    linear("self_attn.o_proj", kHidden, kHeads * kHeadDim);
    linear("mlp.gate_proj", kIntermediate, kHidden);
    linear("mlp.up_proj", kIntermediate, kHidden);
    linear("mlp.down_proj", kHidden, kIntermediate);
  }
  return specs;
}

const Json kConfig{
    {"model_type", "llama"},        {"hidden_size", kHidden},        {"intermediate_size", kIntermediate},
    {"num_hidden_layers", kLayers}, {"num_attention_heads", kHeads}, {"num_key_value_heads", kKvHeads},
    {"head_dim", kHeadDim},         {"torch_dtype", "float32"}};

/// A checkpoint of random weights; the config may be another than its tensors imply.
void write_checkpoint(const fs::path& folder, const std::vector<io::TensorSpec>& specs, Random& random,
                      const Json& config = kConfig) {
  fs::create_directories(folder);
  auto writer = io::CheckpointWriter::create(folder, io::layout_shards(specs));
  ASSERT_TRUE(writer) << writer.error().message;
  for (const io::TensorSpec& spec : specs) {
    std::vector<std::byte> bytes(io::tensor_bytes(spec).value());
    for (std::size_t at = 0; at < bytes.size(); at += 4) {
      const auto value = static_cast<float>(random.normal());
      std::memcpy(bytes.data() + at, &value, 4);
    }
    ASSERT_TRUE(writer->write(spec.name, bytes));
  }
  ASSERT_TRUE(writer->finish(1));
  ASSERT_TRUE(write_file_atomically(folder / "config.json", config.dump()));
  ASSERT_TRUE(write_file_atomically(folder / "tokenizer.json", "{}"));
}

Matrix values(const io::Checkpoint& checkpoint, const std::string& name) {
  const io::TensorView& tensor = *checkpoint.find(name);
  Matrix out;
  for (std::size_t i = 0; i < static_cast<std::size_t>(tensor.elements()); ++i) {
    float value = 0;
    std::memcpy(&value, tensor.bytes.data() + 4 * i, 4);
    out.push_back(value);
  }
  return out;
}

/// weight · x + bias
Matrix apply(const io::Checkpoint& model, const std::string& module, const Matrix& x) {
  const Matrix weight = values(model, module + ".weight");
  Matrix out =
      model.find(module + ".bias") ? values(model, module + ".bias") : Matrix(weight.size() / x.size());
  for (std::size_t i = 0; i < weight.size(); ++i) out[i / x.size()] += weight[i] * x[i % x.size()];
  return out;
}

Matrix normalized(const io::Checkpoint& model, const std::string& name, const Matrix& x) {
  double square = 0;
  for (const double value : x) square += value * value;
  Matrix out = values(model, name);
  for (std::size_t i = 0; i < x.size(); ++i)
    out[i] *= x[i] / std::sqrt(square / static_cast<double>(x.size()) + 1e-5);
  return out;
}

/// Attention of the last position over `positions`, without RoPE (which sees only q and k).
Matrix attention(const io::Checkpoint& model, const std::string& p, const std::vector<Matrix>& positions) {
  const Matrix q = apply(model, p + "q_proj", positions.back());
  Matrix mixed(static_cast<std::size_t>(kHeads * kHeadDim));
  for (std::int64_t head = 0; head < kHeads; ++head) {
    const std::int64_t kv = head * kKvHeads / kHeads;
    double total = 0;
    Matrix sum(static_cast<std::size_t>(kHeadDim));
    for (const Matrix& x : positions) {
      const Matrix k = apply(model, p + "k_proj", x), v = apply(model, p + "v_proj", x);
      double score = 0;
      for (std::int64_t d = 0; d < kHeadDim; ++d)
        score +=
            q[static_cast<std::size_t>(head * kHeadDim + d)] * k[static_cast<std::size_t>(kv * kHeadDim + d)];
      const double weight = std::exp(score / std::sqrt(static_cast<double>(kHeadDim)));
      total += weight;
      for (std::int64_t d = 0; d < kHeadDim; ++d)
        sum[static_cast<std::size_t>(d)] += weight * v[static_cast<std::size_t>(kv * kHeadDim + d)];
    }
    for (std::int64_t d = 0; d < kHeadDim; ++d)
      mixed[static_cast<std::size_t>(head * kHeadDim + d)] = sum[static_cast<std::size_t>(d)] / total;
  }
  return apply(model, p + "o_proj", mixed);
}

/// One block's output for the last position, in double, written independently of the library.
Matrix block(const io::Checkpoint& model, const std::string& p, const std::vector<Matrix>& inputs) {
  std::vector<Matrix> positions;
  for (const Matrix& x : inputs) positions.push_back(normalized(model, p + "input_layernorm.weight", x));
  Matrix x = attention(model, p + "self_attn.", positions);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += inputs.back()[i];
  const Matrix normed = normalized(model, p + "post_attention_layernorm.weight", x);
  const Matrix gate = apply(model, p + "mlp.gate_proj", normed);
  Matrix up = apply(model, p + "mlp.up_proj", normed);
  for (std::size_t i = 0; i < up.size(); ++i) up[i] *= gate[i] / (1 + std::exp(-gate[i]));
  const Matrix down = apply(model, p + "mlp.down_proj", up);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += down[i];
  return x;
}

std::string content(const fs::path& path) {
  return read_text_file(path).value_or("");
}

/// Every file of two folders is the same, byte for byte.
void expect_same_folders(const fs::path& a, const fs::path& b) {
  int files = 0;
  for (const auto& entry : fs::directory_iterator(a)) {
    const fs::path name = entry.path().filename();
    EXPECT_TRUE(fs::exists(b / name)) << name;
    EXPECT_TRUE(content(a / name) == content(b / name)) << name;
    ++files;
  }
  EXPECT_GE(files, 3);
}

struct Reference : testing::Test {
  test::TemporaryFolder folder;
  Random random{std::random_device{}()};
  fs::path source = folder.path() / "source", out = folder.path() / "out";
};

// Every weight is rounded to f32 once more: a relative error of 2^-24 each, over sums of at most 24 terms in
// a chain of six products. 1e-5 leaves room for the cancellation that random signs bring.
TEST_F(Reference, ComputesWhatItsSourceComputes) {
  for (const bool biases : {false, true}) {
    write_checkpoint(source, tiny_tensors(biases), random);
    const Status made = make_reference(source, out, {.dtype = DType::f32});
    ASSERT_TRUE(made) << made.error().message;
    const auto before = io::Checkpoint::open(source), after = io::Checkpoint::open(out);
    ASSERT_TRUE(before && after);
    std::vector<Matrix> inputs(4, Matrix(kHidden));
    for (Matrix& x : inputs) {
      for (double& value : x) value = random.normal();
    }
    for (const char* p : {"model.layers.0.", "model.layers.1."}) {
      const Matrix expected = block(*before, p, inputs), got = block(*after, p, inputs);
      double scale = 0;
      for (const double value : expected) scale = std::max(scale, std::abs(value));
      for (std::size_t i = 0; i < expected.size(); ++i)
        EXPECT_NEAR(got[i], expected[i], 1e-5 * scale) << p << i;
    }
  }
}

TEST_F(Reference, MovesEveryLinearLayerAndNothingElse) {
  write_checkpoint(source, tiny_tensors(false), random);
  ASSERT_TRUE(make_reference(source, out, {.dtype = DType::f32}));
  const auto before = io::Checkpoint::open(source), after = io::Checkpoint::open(out);
  ASSERT_TRUE(before && after);
  for (const auto& [name, tensor] : before->tensors()) {
    const Matrix old = values(*before, name), moved = values(*after, name);
    if (name == "model.embed_tokens.weight") {
      EXPECT_EQ(old, moved);
      continue;
    }
    double smallest = INFINITY, largest = 0;
    for (std::size_t i = 0; i < old.size(); ++i) {
      smallest = std::min(smallest, moved[i] / old[i]);
      largest = std::max(largest, moved[i] / old[i]);
    }
    EXPECT_LT(smallest, 0.99) << name;
    EXPECT_GT(largest, 1.01) << name;
    EXPECT_GT(smallest, std::exp(-0.41)) << name;
    EXPECT_LT(largest, std::exp(0.41)) << name;
  }
}

TEST_F(Reference, IsTheSameBytesAgainAndAnotherSeedIsNot) {
  write_checkpoint(source, tiny_tensors(false), random);
  ASSERT_TRUE(make_reference(source, out, {}));
  ASSERT_TRUE(make_reference(source, folder.path() / "again", {}));
  expect_same_folders(out, folder.path() / "again");
  ASSERT_TRUE(make_reference(source, folder.path() / "other", {.seed = 1}));
  EXPECT_NE(content(out / "model.safetensors"), content(folder.path() / "other" / "model.safetensors"));
}

TEST_F(Reference, Bf16IsTheF32OneRounded) {
  write_checkpoint(source, tiny_tensors(false), random);
  ASSERT_TRUE(make_reference(source, out, {.dtype = DType::bf16}));
  ASSERT_TRUE(make_reference(source, folder.path() / "f32", {.dtype = DType::f32}));
  const auto half = io::Checkpoint::open(out), full = io::Checkpoint::open(folder.path() / "f32");
  ASSERT_TRUE(half && full);
  EXPECT_EQ(half->config()["torch_dtype"], "bfloat16");
  EXPECT_EQ(content(out / "tokenizer.json"), "{}");
  for (const auto& [name, tensor] : half->tensors()) {
    ASSERT_EQ(tensor.dtype, DType::bf16);
    const Matrix expected = values(*full, name);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      std::uint16_t bits = 0;
      std::memcpy(&bits, tensor.bytes.data() + 2 * i, 2);
      ASSERT_EQ(bits, f32_to_bf16(static_cast<float>(expected[i]))) << name;
    }
  }
}

TEST_F(Reference, RefusesOtherCheckpoints) {
  auto specs = tiny_tensors(false);
  Json config = kConfig;
  config["hidden_size"] = kHidden + 4;
  write_checkpoint(source, specs, random, config);
  const Status shape = make_reference(source, out, {});
  ASSERT_FALSE(shape);
  EXPECT_TRUE(contains(shape.error().message, "expected shape [16], got [12]"));
  for (io::TensorSpec& spec : specs) spec.dtype = DType::u32;
  write_checkpoint(source, specs, random);
  const Status dtype = make_reference(source, out, {});
  ASSERT_FALSE(dtype);
  EXPECT_TRUE(contains(dtype.error().message, "expected F32, got U32"));
  EXPECT_EQ(make_reference(source, out, {.dtype = DType::f16}).error().code, ErrorCode::usage);
  EXPECT_FALSE(fs::exists(out));
}

TEST_F(Reference, OfTheRealModelIsTheSameBytesAgain) {
  const auto gguf = test::reference_gguf();
  OPTIQ_SKIP_WITHOUT_REFERENCE(gguf);
  for (const char* name : {"first", "second"}) {
    const Status imported = io::import_gguf(*gguf, source, {.dtype = DType::f32, .progress = {}});
    ASSERT_TRUE(imported) << imported.error().message;
    const Status made = make_reference(source, folder.path() / name, {});
    ASSERT_TRUE(made) << made.error().message;
  }
  expect_same_folders(folder.path() / "first", folder.path() / "second");
}

}  // namespace
}  // namespace optiq::tools
