#include "block_rounding.h"

#include <cstring>

namespace optiq::tune {
namespace {

/// The module's packed matrix as `learned` or else the checkpoint has it.
Result<quant::QuantizedMatrix> stored_matrix(const model::Model& student, const model::ModuleShape& shape,
                                             const encode::TensorBytes& learned) {
  const io::Checkpoint& checkpoint = student.checkpoint();
  const auto bytes_of = [&](const char* part) -> Result<std::span<const std::byte>> {
    const auto found = learned.find(shape.name + part);
    if (found != learned.end()) return found->second;
    return checkpoint.require(shape.name + part).map([](const io::TensorView& view) { return view.bytes; });
  };
  OPTIQ_TRY(const auto weight, bytes_of(".weight"));
  OPTIQ_TRY(const auto scales, bytes_of(".scales"));
  OPTIQ_TRY(const auto biases, bytes_of(".biases"));
  OPTIQ_TRY(const io::TensorView pair, checkpoint.require(shape.name + ".scales"));
  quant::QuantizedMatrix matrix{
      shape.out_features, shape.in_features, student.format(shape.name), pair.dtype, {}, {}, {}};
  matrix.weight.resize(weight.size() / sizeof(std::uint32_t));
  std::memcpy(matrix.weight.data(), weight.data(), weight.size());
  matrix.scales.assign(scales.begin(), scales.end());
  matrix.biases.assign(biases.begin(), biases.end());
  return matrix;
}

Result<mx::array> dequantized(const quant::LearnedRounding& rounding, const mx::Shape& shape) {
  mx::array values = mx::zeros(shape, mx::float32);
  OPTIQ_CHECK(model::evaluate({values}));
  rounding.dequantize({values.data<float>(), values.size()});
  return values;
}

}  // namespace

Result<BlockRounding> BlockRounding::make(const model::Model& student, const model::Model& reference,
                                          std::int64_t layer, int most_bits, kernels::Compute compute,
                                          const encode::TensorBytes& learned) {
  BlockRounding block(student, layer, compute);
  for (const model::ModuleShape& shape : student.modules()) {
    if (shape.layer != layer || student.format(shape.name).bits > most_bits) continue;
    OPTIQ_TRY(const quant::QuantizedMatrix start, stored_matrix(student, shape, learned));
    const std::string tensor = shape.name + ".weight";
    OPTIQ_TRY(const io::TensorView dense, reference.checkpoint().require(tensor));
    if (dense.shape != std::vector{shape.out_features, shape.in_features} || !is_float_dtype(dense.dtype)) {
      return fail(ErrorCode::bad_input,
                  "{}: tensor {}: expected full-precision weights [{}, {}], got {} [{}]",
                  reference.checkpoint().folder().string(), tensor, shape.out_features, shape.in_features,
                  dtype_name(dense.dtype), fmt::join(dense.shape, ", "));
    }
    const quant::MatrixView weights{shape.out_features, shape.in_features, dense.dtype, dense.bytes};
    OPTIQ_TRY(auto rounding, quant::LearnedRounding::make(weights, start, tensor));
    OPTIQ_TRY(mx::array weight, dequantized(rounding, {static_cast<int>(shape.out_features),
                                                       static_cast<int>(shape.in_features)}));
    block.modules_.push_back({shape.name, std::move(rounding), std::move(weight)});
  }
  return block;
}

std::vector<mx::array> BlockRounding::weights() const {
  std::vector<mx::array> result;
  for (const Module& module : modules_) result.push_back(module.weight);
  return result;
}

mx::array BlockRounding::run(const mx::array& input, const std::vector<mx::array>& weights) const {
  std::unordered_map<std::string, mx::array> by_name;
  for (std::size_t i = 0; i < modules_.size(); ++i) by_name.insert_or_assign(modules_[i].name, weights[i]);
  return student_.block(layer_, input, {.compute = compute_, .weights = &by_name});
}

mx::array BlockRounding::loss(const BlockSample& sample, const std::vector<mx::array>& weights) const {
  const mx::array error = mx::mean(mx::square(run(sample.input, weights) - sample.target), -1);
  const mx::array size = mx::mean(mx::square(sample.target), -1);
  return mx::mean(mx::divide(error, size + mx::array(1e-12f)));
}

Result<mx::array> BlockRounding::output(const mx::array& input) const {
  mx::array result = run(input, weights());
  OPTIQ_CHECK(model::evaluate({result}));
  return result;
}

Result<double> BlockRounding::error(const BlockSample& sample) const {
  mx::array value = loss(sample, weights());
  OPTIQ_CHECK(model::evaluate({value}));
  return static_cast<double>(value.item<float>());
}

Status BlockRounding::step(const BlockSample& sample, const quant::RoundingStep& step) {
  const auto traced = [&](const std::vector<mx::array>& weights) {
    return std::vector<mx::array>{loss(sample, weights)};
  };
  std::vector<mx::array> gradients;
  for (const mx::array& gradient : mx::vjp(traced, weights(), {mx::array(1.0f)}).second)
    gradients.push_back(mx::contiguous(gradient));
  OPTIQ_CHECK(model::evaluate(gradients));
  for (std::size_t i = 0; i < modules_.size(); ++i) {
    modules_[i].rounding.step({gradients[i].data<float>(), gradients[i].size()}, step);
    OPTIQ_TRY(modules_[i].weight, dequantized(modules_[i].rounding, modules_[i].weight.shape()));
  }
  return {};
}

std::unordered_map<std::string, quant::QuantizedMatrix> BlockRounding::encoded() const {
  std::unordered_map<std::string, quant::QuantizedMatrix> result;
  for (const Module& module : modules_) result.insert_or_assign(module.name, module.rounding.encoded());
  return result;
}

}  // namespace optiq::tune
