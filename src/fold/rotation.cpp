#include "rotation.h"

#include <bit>

#include "block.h"

namespace optiq::fold {
namespace {

using Doubles = std::vector<double>;

constexpr std::string_view kAttentionNorm = "input_layernorm.weight";
constexpr std::string_view kMlpNorm = "post_attention_layernorm.weight";

/// Uniformly random orthogonal [size, size]: rows of normal values made orthonormal one after another. Twice,
/// so that what rounding left of a row in the others goes too.
Doubles random_dense(std::size_t size, Random& random) {
  Doubles rows(size * size);
  for (double& value : rows) value = random.normal();
  for (std::size_t row = 0; row < size; ++row) {
    double* own = &rows[row * size];
    for (int pass = 0; pass < 2; ++pass) {
      for (std::size_t other = 0; other < row; ++other) {
        const double* base = &rows[other * size];
        double product = 0;
        for (std::size_t i = 0; i < size; ++i) product += own[i] * base[i];
        for (std::size_t i = 0; i < size; ++i) own[i] -= product * base[i];
      }
    }
    double square = 0;
    for (std::size_t i = 0; i < size; ++i) square += own[i] * own[i];
    for (std::size_t i = 0; i < size; ++i) own[i] /= std::sqrt(square);
  }
  return rows;
}

/// x·M in f32, both row-major matrices.
mx::array times(const mx::array& x, const mx::array& matrix) {
  return kernels::linear(mx::contiguous(x), mx::contiguous(mx::transpose(matrix)));
}

/// A norm's weights and the rotation behind it go into the matrices that read the stream.
Status turn_readers(Block& block, std::string_view norm, const std::vector<std::string>& readers,
                    const mx::array& rotation) {
  OPTIQ_TRY(const mx::array weights, block.get(norm));
  for (const std::string& reader : readers) {
    OPTIQ_TRY(const mx::array matrix, block.get(reader + ".weight"));
    block.set(reader + ".weight", times(matrix * weights, rotation));
  }
  block.set(norm, mx::ones_like(weights));
  return {};
}

/// What a matrix adds to the stream turns with it.
Status turn_writer(Block& block, const std::string& writer, const mx::array& rotation) {
  OPTIQ_TRY(const mx::array matrix, block.get(writer + ".weight"));
  block.set(writer + ".weight", mx::transpose(times(mx::transpose(matrix), rotation)));
  if (!block.has(writer + ".bias")) return {};
  OPTIQ_TRY(const mx::array bias, block.get(writer + ".bias"));
  block.set(writer + ".bias", mx::reshape(times(mx::reshape(bias, {1, -1}), rotation), {-1}));
  return {};
}

Status turn_stream(Block& block, const mx::array& rotation) {
  if (block.layer() < 0) {
    OPTIQ_TRY(const mx::array embeddings, block.get("model.embed_tokens.weight"));
    block.set("model.embed_tokens.weight", times(embeddings, rotation));
    return turn_readers(block, "model.norm.weight", {"lm_head"}, rotation);
  }
  OPTIQ_CHECK(turn_readers(block, kAttentionNorm, block.attention_readers(), rotation));
  OPTIQ_CHECK(turn_readers(block, kMlpNorm, block.mlp_readers(), rotation));
  OPTIQ_CHECK(turn_writer(block, "self_attn.o_proj", rotation));
  return turn_writer(block, "mlp.down_proj", rotation);
}

/// v·R for each value head, a rotation of its own each, and o_proj's columns with it.
Status turn_values(Block& block, Random& random) {
  const int heads = static_cast<int>(block.config().heads);
  const int kv_heads = static_cast<int>(block.config().kv_heads);
  const int width = static_cast<int>(block.config().head_dim);
  std::vector<mx::array> rotations;
  for (int head = 0; head < kv_heads; ++head) rotations.push_back(random_orthogonal(width, random));
  const mx::array all = mx::stack(rotations);  // [kv_heads, width, width]
  OPTIQ_CHECK(block.change_rows(block.value_rows(), [&](const mx::array& rows) {
    const mx::array split = mx::reshape(rows, {kv_heads, width, -1});
    return mx::reshape(mx::matmul(mx::transpose(all, {0, 2, 1}), split), rows.shape());
  }));
  const std::string output = "self_attn.o_proj.weight";
  OPTIQ_TRY(const mx::array matrix, block.get(output));
  const mx::array columns = mx::transpose(mx::reshape(matrix, {-1, heads, width}), {1, 0, 2});
  const mx::array turned = mx::matmul(columns, mx::repeat(all, heads / kv_heads, 0));
  block.set(output, mx::reshape(mx::transpose(turned, {1, 0, 2}), matrix.shape()));
  return {};
}

}  // namespace

mx::array random_orthogonal(std::int64_t size, Random& random) {
  const auto n = static_cast<std::size_t>(size);
  const std::size_t power = n & (~n + 1), odd = n / power;
  const Doubles dense = random_dense(odd, random);
  std::vector<float> values(n * n);
  for (std::size_t row = 0; row < n; ++row) {
    const double sign = random.below(2) == 0 ? 1 : -1;
    for (std::size_t column = 0; column < n; ++column) {
      const bool negative = std::popcount((row / odd) & (column / odd)) % 2 != 0;
      const double entry = dense[(row % odd) * odd + column % odd] / std::sqrt(static_cast<double>(power));
      values[row * n + column] = static_cast<float>(negative ? -sign * entry : sign * entry);
    }
  }
  const int side = static_cast<int>(size);
  return mx::array(values.begin(), {side, side});
}

Status rotate(const model::Model& model, const RotationOptions& options, const std::filesystem::path& folder,
              const Progress& progress) {
  OPTIQ_TRY(Rewriter rewriter, Rewriter::create(model, folder));
  Random random(options.seed);
  std::optional<mx::array> residual;
  if (options.residual) residual = random_orthogonal(model.config().hidden, random);
  const std::int64_t layers = model.config().layers;
  for (std::int64_t stage = 0; stage <= layers; ++stage) {
    report_progress(progress, "rotating", static_cast<double>(stage), static_cast<double>(layers + 1));
    Block block(model, stage == layers ? -1 : stage);
    if (residual) OPTIQ_CHECK(turn_stream(block, *residual));
    if (options.values && block.layer() >= 0) OPTIQ_CHECK(turn_values(block, random));
    OPTIQ_CHECK(rewriter.write_stage(block.layer(), block.changes()));
  }
  return rewriter.finish();
}

}  // namespace optiq::fold
