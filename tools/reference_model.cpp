#include "reference_model.h"

#include <cmath>
#include <cstring>
#include <map>
#include <vector>

#include "optiq/base/half.h"
#include "optiq/base/random.h"
#include "optiq/io/checkpoint.h"

namespace optiq::tools {
namespace {

constexpr double kLargestExponent = 0.2;

using Factors = std::vector<double>;

/// What one tensor is multiplied by; an empty vector stands for ones.
struct Scaling {
  Factors rows;
  Factors columns;
};

Factors random_factors(Random& random, std::int64_t count) {
  Factors factors(static_cast<std::size_t>(count));
  // Through float, so that the last bit of a platform's exp does not show.
  for (double& factor : factors)
    factor = static_cast<float>(std::exp(random.uniform(-kLargestExponent, kLargestExponent)));
  return factors;
}

Factors inverse(const Factors& factors) {
  Factors result;
  for (const double factor : factors) result.push_back(1 / factor);
  return result;
}

/// The factors of v's rows as o's columns see them: every KV head's, once a query head that reads it.
Factors repeated_by_head(const Factors& factors, std::int64_t kv_heads, std::int64_t repeats) {
  const std::size_t head = factors.size() / static_cast<std::size_t>(kv_heads);
  Factors result;
  for (std::size_t begin = 0; begin < factors.size(); begin += head) {
    for (std::int64_t i = 0; i < repeats; ++i)
      result.insert(result.end(), factors.begin() + static_cast<std::ptrdiff_t>(begin),
                    factors.begin() + static_cast<std::ptrdiff_t>(begin + head));
  }
  return result;
}

struct Shape {
  std::int64_t layers = 0;
  std::int64_t hidden = 0;
  std::int64_t intermediate = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
};

Result<Shape> read_shape(const io::Checkpoint& source) {
  const JsonReader config(source.config(), (source.folder() / "config.json").string());
  Shape shape;
  OPTIQ_TRY(shape.layers, config.integer("num_hidden_layers"));
  OPTIQ_TRY(shape.hidden, config.integer("hidden_size"));
  OPTIQ_TRY(shape.intermediate, config.integer("intermediate_size"));
  OPTIQ_TRY(shape.heads, config.integer("num_attention_heads"));
  OPTIQ_TRY(shape.kv_heads, config.integer("num_key_value_heads"));
  OPTIQ_TRY(shape.head_dim, config.integer("head_dim"));
  if (shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0) return shape;
  return fail(ErrorCode::bad_input,
              "{}: num_attention_heads: expected a multiple of num_key_value_heads {}, got {}",
              config.where(), shape.kv_heads, shape.heads);
}

using Scalings = std::map<std::string, Scaling>;

/// The scalings of a checkpoint, by tensor, checked against the tensors' shapes.
class ScalingPlan {
 public:
  ScalingPlan(const io::Checkpoint& source, const Shape& shape, std::uint64_t seed)
      : source_(source), shape_(shape), random_(seed) {}

  Result<Scalings> make() {
    for (std::int64_t layer = 0; layer < shape_.layers; ++layer)
      OPTIQ_CHECK(add_layer(fmt::format("model.layers.{}.", layer)));
    return std::move(scalings_);
  }

 private:
  Status add_layer(const std::string& prefix) {
    const std::int64_t kv = shape_.kv_heads * shape_.head_dim;
    const std::int64_t q = shape_.heads * shape_.head_dim;
    OPTIQ_TRY(const Factors attention, divide_norm(prefix + "input_layernorm.weight"));
    OPTIQ_TRY(const Factors mlp, divide_norm(prefix + "post_attention_layernorm.weight"));
    if (!source_.find(prefix + "self_attn.v_proj.weight") || !source_.find(prefix + "mlp.up_proj.weight")) {
      return fail(ErrorCode::bad_input, "{}: {}: expected separate q, k, v and gate, up projections",
                  source_.folder().string(), prefix);
    }
    const Factors value = random_factors(random_, kv);
    const Factors up = random_factors(random_, shape_.intermediate);
    const Factors value_undone =
        inverse(repeated_by_head(value, shape_.kv_heads, shape_.heads / shape_.kv_heads));
    OPTIQ_CHECK(scale(prefix + "self_attn.q_proj", q, shape_.hidden, {{}, attention}));
    OPTIQ_CHECK(scale(prefix + "self_attn.k_proj", kv, shape_.hidden, {{}, attention}));
    OPTIQ_CHECK(scale(prefix + "self_attn.v_proj", kv, shape_.hidden, {value, attention}));
    OPTIQ_CHECK(scale(prefix + "self_attn.o_proj", shape_.hidden, q, {{}, value_undone}));
    OPTIQ_CHECK(scale(prefix + "mlp.gate_proj", shape_.intermediate, shape_.hidden, {{}, mlp}));
    OPTIQ_CHECK(scale(prefix + "mlp.up_proj", shape_.intermediate, shape_.hidden, {up, mlp}));
    return scale(prefix + "mlp.down_proj", shape_.hidden, shape_.intermediate, {{}, inverse(up)});
  }

  /// Draws factors for a norm's channels and divides the norm by them.
  Result<Factors> divide_norm(const std::string& name) {
    OPTIQ_CHECK(expect_shape(name, {shape_.hidden}));
    const Factors factors = random_factors(random_, shape_.hidden);
    scalings_[name] = {inverse(factors), {}};
    return factors;
  }

  /// A linear layer's weight; its bias, where it has one, is an output like the rows.
  Status scale(const std::string& module, std::int64_t out, std::int64_t in, Scaling scaling) {
    OPTIQ_CHECK(expect_shape(module + ".weight", {out, in}));
    if (source_.find(module + ".bias") != nullptr) {
      OPTIQ_CHECK(expect_shape(module + ".bias", {out}));
      scalings_[module + ".bias"] = {scaling.rows, {}};
    }
    scalings_[module + ".weight"] = std::move(scaling);
    return {};
  }

  Status expect_shape(const std::string& name, const std::vector<std::int64_t>& expected) const {
    OPTIQ_TRY(const io::TensorView tensor, source_.require(name));
    if (tensor.shape == expected) return {};
    return fail(ErrorCode::bad_input, "{}: tensor {}: expected shape [{}], got [{}]",
                source_.folder().string(), name, fmt::join(expected, ", "), fmt::join(tensor.shape, ", "));
  }

  const io::Checkpoint& source_;
  Shape shape_;
  Random random_;
  Scalings scalings_;
};

void store(float value, DType dtype, std::byte* to) {
  if (dtype == DType::f32) {
    std::memcpy(to, &value, sizeof value);
  } else {
    const std::uint16_t bits = f32_to_bf16(value);
    std::memcpy(to, &bits, sizeof bits);
  }
}

/// A vector is a matrix of one column: its factors are `rows`.
std::vector<std::byte> scaled(const io::TensorView& tensor, const Scaling& scaling, DType dtype) {
  const auto elements = static_cast<std::size_t>(tensor.elements());
  const std::size_t columns = tensor.shape.size() == 1 ? 1 : static_cast<std::size_t>(tensor.shape.back());
  std::vector<std::byte> out(elements * dtype_bytes(dtype));
  for (std::size_t i = 0; i < elements; ++i) {
    float weight = 0;
    std::memcpy(&weight, tensor.bytes.data() + i * sizeof weight, sizeof weight);
    double factor = scaling.rows.empty() ? 1 : scaling.rows[i / columns];
    if (!scaling.columns.empty()) factor *= scaling.columns[i % columns];
    store(static_cast<float>(weight * factor), dtype, out.data() + i * dtype_bytes(dtype));
  }
  return out;
}

Status write_weights(const io::Checkpoint& source, const Scalings& scalings,
                     const std::filesystem::path& folder, DType dtype) {
  std::vector<io::TensorSpec> specs;
  for (const auto& [name, tensor] : source.tensors()) {
    if (tensor.dtype != DType::f32) {
      return fail(ErrorCode::bad_input, "{}: tensor {}: expected F32, got {}", source.folder().string(), name,
                  dtype_name(tensor.dtype));
    }
    specs.push_back({name, dtype, tensor.shape});
  }
  OPTIQ_TRY(io::CheckpointWriter writer, io::CheckpointWriter::create(folder, io::layout_shards(specs)));
  std::uint64_t parameters = 0;
  for (const auto& [name, tensor] : source.tensors()) {
    const auto scaling = scalings.find(name);
    OPTIQ_CHECK(
        writer.write(name, scaled(tensor, scaling == scalings.end() ? Scaling{} : scaling->second, dtype)));
    parameters += static_cast<std::uint64_t>(tensor.elements());
  }
  return writer.finish(parameters);
}

}  // namespace

Status make_reference(const std::filesystem::path& source_folder, const std::filesystem::path& out,
                      const ReferenceOptions& options) {
  if (options.dtype != DType::f32 && options.dtype != DType::bf16)
    return fail(ErrorCode::usage, "reference: expected dtype F32 or BF16, got {}", dtype_name(options.dtype));
  OPTIQ_TRY(const io::Checkpoint source, io::Checkpoint::open(source_folder));
  OPTIQ_TRY(const Shape shape, read_shape(source));
  OPTIQ_TRY(const Scalings scalings, ScalingPlan(source, shape, options.seed).make());
  OPTIQ_TRY(StagedDirectory staged, StagedDirectory::create(out, "config.json"));
  OPTIQ_CHECK(write_weights(source, scalings, staged.path(), options.dtype));
  Json config = source.config();
  config["torch_dtype"] = options.dtype == DType::f32 ? "float32" : "bfloat16";
  OPTIQ_CHECK(write_file_atomically(staged.path() / "config.json", config.dump(2) + "\n"));
  OPTIQ_CHECK(io::copy_sidecar_files(source_folder, staged.path()));
  return staged.commit();
}

}  // namespace optiq::tools
