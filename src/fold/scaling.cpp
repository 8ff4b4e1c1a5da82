#include "scaling.h"

#include <algorithm>
#include <cmath>

#include "block.h"
#include "optiq/profile/grams.h"

namespace optiq::fold {
namespace {

constexpr int kSteps = 20;
/// Channels quieter than this share of the loudest one's rms get no smaller factor.
constexpr double kQuietest = 1e-4;

mx::array vector_of(std::span<const float> values) {
  return mx::array(values.begin(), {static_cast<int>(values.size())});
}

/// The format, with a smaller group where that is needed to divide a row.
quant::Format fitting(quant::Format format, int in_features) {
  while (format.group_size > 32 && in_features % format.group_size != 0) format.group_size /= 2;
  return format;
}

/// At most `most` rows, evenly spaced.
mx::array some_rows(const mx::array& matrix, std::int64_t most) {
  const int step = static_cast<int>((matrix.shape(0) + most - 1) / most);
  return mx::contiguous(mx::slice(matrix, {0, 0}, matrix.shape(), {std::max(step, 1), 1}));
}

/// rms^α, the largest times the smallest being 1 (as AWQ has it).
std::vector<float> factors_of(const std::vector<float>& energies, double alpha) {
  const double loudest = std::sqrt(static_cast<double>(*std::max_element(energies.begin(), energies.end())));
  std::vector<float> factors;
  for (const float energy : energies) {
    const double rms = std::max(std::sqrt(static_cast<double>(energy)), kQuietest * loudest);
    factors.push_back(rms > 0 ? static_cast<float>(std::pow(rms, alpha)) : 1.0f);
  }
  const auto [least, most] = std::minmax_element(factors.begin(), factors.end());
  const float middle = std::sqrt(*least * *most);
  for (float& factor : factors) factor /= middle;
  return factors;
}

/// The second moments of inputs that are divided by the factors.
Result<quant::Gram> scaled_gram(const quant::Gram& gram, std::span<const float> factors) {
  std::vector<float> moments = gram.moments();
  const std::size_t in = factors.size();
  for (std::size_t row = 0; row < in; ++row)
    for (std::size_t column = 0; column < in; ++column)
      moments[row * in + column] /= factors[row] * factors[column];
  return quant::Gram::make(std::move(moments), gram.in_features(), "folded inputs");
}

mx::array dequantized(const quant::QuantizedMatrix& matrix) {
  std::vector<float> values(static_cast<std::size_t>(matrix.out_features * matrix.in_features));
  const auto in = static_cast<std::size_t>(matrix.in_features);
  for (std::size_t row = 0; row * in < values.size(); ++row)
    quant::dequantize_row(matrix, static_cast<std::int64_t>(row), std::span(values).subspan(row * in, in));
  return mx::array(values.begin(), {static_cast<int>(matrix.out_features), static_cast<int>(in)});
}

/// tr(M·A·Mᵀ).
Result<double> weighted_norm(const mx::array& matrix, const mx::array& moments) {
  mx::array sum = mx::sum(kernels::linear(matrix, moments) * matrix);
  OPTIQ_CHECK(model::evaluate({sum}));
  return static_cast<double>(sum.item<float>());
}

/// Channels and who makes and reads them.
struct Group {
  std::vector<std::string> readers;  ///< modules, without the block's prefix
  std::string norm;                  ///< tensor that makes the channels, or
  Block::Rows rows;                  ///< the rows that do
  std::int64_t shared = 1;           ///< neighbouring heads of inputs that one head of rows makes
};

std::vector<Group> groups_of(const Block& block) {
  if (block.layer() < 0) {
    if (block.config().tied_embeddings) return {};
    return {{{"lm_head"}, "model.norm.weight", {}, 1}};
  }
  return {{block.attention_readers(), "input_layernorm.weight", {}, 1},
          {{"self_attn.o_proj"}, "", block.value_rows(), block.config().heads / block.config().kv_heads},
          {block.mlp_readers(), "post_attention_layernorm.weight", {}, 1},
          {{"mlp.down_proj"}, "", block.up_rows(), 1}};
}

/// [heads · width] → of neighbouring heads that share one, the mean; [heads / shared · width].
std::vector<float> pooled(const std::vector<float>& energies, std::int64_t shared, std::int64_t width) {
  const auto w = static_cast<std::size_t>(width), s = static_cast<std::size_t>(shared);
  std::vector<float> result(energies.size() / s, 0.0f);
  for (std::size_t i = 0; i < energies.size(); ++i)
    result[i / w / s * w + i % w] += energies[i] / static_cast<float>(shared);
  return result;
}

/// The other way round: each head's values for all that share it.
std::vector<float> spread(const std::vector<float>& values, std::int64_t shared, std::int64_t width) {
  const auto w = static_cast<std::size_t>(width), s = static_cast<std::size_t>(shared);
  std::vector<float> result(values.size() * s);
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = values[i / w / s * w + i % w];
  return result;
}

/// Divides a norm's weights by the factors; what its dtype makes of these is what the matrices must undo.
Result<mx::array> divide_norm(Block& block, const std::string& norm, const mx::array& factors) {
  OPTIQ_TRY(const io::TensorView view, block.checkpoint().require(block.full_name(norm)));
  OPTIQ_TRY(const mx::array weights, block.get(norm));
  const mx::array divided = rounded(weights / factors, view.dtype);
  const mx::array is_lost = mx::equal(divided, mx::array(0.0f));
  block.set(norm, mx::where(is_lost, weights, divided));
  return mx::where(is_lost, mx::ones_like(factors), weights / divided);
}

class Scaling {
 public:
  Scaling(const model::Model& model, const Options& options, Rewriter rewriter)
      : model_(model), options_(options), rewriter_(std::move(rewriter)) {}

  Status run(const calibrate::TokenBatch& tokens, const Progress& progress) {
    const auto visit = [&](std::int64_t layer, const profile::Grams& grams) -> Result<profile::Replacements> {
      Block block(model_, layer);
      for (const Group& group : groups_of(block)) OPTIQ_CHECK(scale_group(block, group, grams));
      OPTIQ_CHECK(rewriter_.write_stage(layer, block.changes()));
      return profile::Replacements{};
    };
    OPTIQ_CHECK(profile::walk_grams(model_, tokens, {}, visit, progress));
    return rewriter_.finish();
  }

 private:
  Status scale_group(Block& block, const Group& group, const profile::Grams& grams) {
    const std::int64_t width = group.shared > 1 ? model_.config().head_dim : 1;
    Readers readers;
    readers.gram = grams.at(block.full_name(group.readers.front())).get();
    for (const std::string& reader : group.readers) {
      OPTIQ_TRY(mx::array weight, block.get(reader + ".weight"));
      readers.weights.push_back(std::move(weight));
    }
    const std::vector<float> of_rows = pooled(readers.gram->diagonal(), group.shared, width);
    readers.energies = spread(of_rows, group.shared, width);
    OPTIQ_TRY(const DType dtype, dtype_of(block, group.readers.front() + ".weight"));
    OPTIQ_TRY(const std::vector<float> factors, search_factors(readers, options_, dtype));
    mx::array undone = vector_of(factors);
    if (!group.norm.empty()) {
      OPTIQ_TRY(undone, divide_norm(block, group.norm, undone));
    } else {
      const mx::array divisor = mx::reshape(vector_of(pooled(factors, group.shared, width)), {-1, 1});
      OPTIQ_CHECK(block.change_rows(group.rows, [&](const mx::array& rows) { return rows / divisor; }));
    }
    for (const std::string& reader : group.readers) {
      OPTIQ_TRY(const mx::array weight, block.get(reader + ".weight"));
      block.set(reader + ".weight", weight * undone);
    }
    return {};
  }

  static Result<DType> dtype_of(const Block& block, const std::string& tensor) {
    OPTIQ_TRY(const io::TensorView view, block.checkpoint().require(block.full_name(tensor)));
    return view.dtype;
  }

  const model::Model& model_;
  const Options& options_;
  Rewriter rewriter_;
};

}  // namespace

Result<double> loss_of(const Readers& readers, std::span<const float> factors, const Options& options,
                       DType scales_dtype) {
  const int in = static_cast<int>(factors.size());
  const mx::array moments(readers.gram->moments().begin(), {in, in});
  const mx::array scales = vector_of(factors);
  std::optional<quant::Gram> gram;
  if (options.encoder == quant::Encoder::gptq) {
    OPTIQ_TRY(gram, scaled_gram(*readers.gram, factors));
  }
  std::vector<float> importance = readers.gram->diagonal();
  for (std::size_t i = 0; i < importance.size(); ++i) importance[i] /= factors[i] * factors[i];
  double loss = 0;
  for (const mx::array& weight : readers.weights) {
    const mx::array rows = some_rows(weight, options.rows);
    mx::array scaled = mx::contiguous(rows * scales);
    OPTIQ_CHECK(model::evaluate({scaled}));
    const quant::MatrixView view{scaled.shape(0), in, DType::f32,
                                 std::as_bytes(std::span(scaled.data<float>(), scaled.size()))};
    OPTIQ_TRY(const auto encoded,
              quant::encode(options.encoder, view, fitting(options.format, in), scales_dtype,
                            {.importance = importance, .gram = gram ? &*gram : nullptr}, "folded weights"));
    OPTIQ_TRY(const double error, weighted_norm(dequantized(encoded) / scales - rows, moments));
    OPTIQ_TRY(const double whole, weighted_norm(rows, moments));
    if (whole > 0) loss += error / whole;
  }
  return loss;
}

Result<std::vector<float>> search_factors(const Readers& readers, const Options& options,
                                          DType scales_dtype) {
  std::vector<float> best(readers.energies.size(), 1.0f);
  OPTIQ_TRY(double least, loss_of(readers, best, options, scales_dtype));
  for (int step = 1; step <= kSteps; ++step) {
    std::vector<float> factors = factors_of(readers.energies, static_cast<double>(step) / kSteps);
    OPTIQ_TRY(const double loss, loss_of(readers, factors, options, scales_dtype));
    if (loss >= least) continue;
    least = loss;
    best = std::move(factors);
  }
  return best;
}

Status scale(const model::Model& model, const calibrate::TokenBatch& tokens, const Options& options,
             const std::filesystem::path& folder, const Progress& progress) {
  OPTIQ_TRY(Rewriter rewriter, Rewriter::create(model, folder));
  return Scaling(model, options, std::move(rewriter)).run(tokens, progress);
}

}  // namespace optiq::fold
