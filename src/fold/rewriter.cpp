#include "rewriter.h"

#include "optiq/base/threads.h"
#include "optiq/quant/encoder.h"

namespace optiq::fold {
namespace {

constexpr std::size_t kElementsAtOnce = 1 << 16;

mx::Dtype mlx_dtype(DType dtype) {
  return dtype == DType::f16 ? mx::float16 : dtype == DType::bf16 ? mx::bfloat16 : mx::float32;
}

/// The block that a tensor belongs to; −1 for none.
std::int64_t layer_of(const std::string& name, std::int64_t layers) {
  constexpr std::string_view kPrefix = "model.layers.";
  if (!name.starts_with(kPrefix)) return -1;
  const std::size_t end = name.find('.', kPrefix.size());
  const std::string number = name.substr(kPrefix.size(), end - kPrefix.size());
  for (std::int64_t layer = 0; layer < layers; ++layer)
    if (number == std::to_string(layer)) return layer;
  return -1;
}

}  // namespace

Result<mx::array> load_f32(const io::Checkpoint& checkpoint, const std::string& name) {
  OPTIQ_TRY(const io::TensorView view, checkpoint.require(name));
  mx::Shape shape;
  for (const std::int64_t extent : view.shape) shape.push_back(static_cast<mx::ShapeElem>(extent));
  mx::array values = mx::zeros(shape, mx::float32);
  OPTIQ_CHECK(model::evaluate({values}));
  auto* data = values.data<float>();
  const std::size_t size = dtype_bytes(view.dtype);
  parallel_for(values.size(), kElementsAtOnce, [&](std::size_t begin, std::size_t end) {
    const auto count = static_cast<std::int64_t>(end - begin);
    const quant::MatrixView part{1, count, view.dtype,
                                 view.bytes.subspan(begin * size, (end - begin) * size)};
    quant::load_row(part, 0, std::span(data + begin, end - begin));
  });
  return values;
}

mx::array rounded(const mx::array& values, DType dtype) {
  return mx::astype(mx::astype(values, mlx_dtype(dtype)), mx::float32);
}

Result<Rewriter> Rewriter::create(const model::Model& model, const std::filesystem::path& folder) {
  const std::int64_t layers = model.config().layers;
  const io::Checkpoint& source = model.checkpoint();
  std::vector<std::vector<std::string>> stages(static_cast<std::size_t>(layers + 1));
  for (const auto& [name, view] : source.tensors()) {
    const std::int64_t layer = layer_of(name, layers);
    stages[static_cast<std::size_t>(layer < 0 ? layers : layer)].push_back(name);
  }
  std::vector<io::TensorSpec> specs;
  for (const auto& stage : stages) {
    for (const std::string& name : stage) {
      const io::TensorView& view = *source.find(name);
      specs.push_back({name, view.dtype, view.shape});
    }
  }
  OPTIQ_TRY(auto writer, io::CheckpointWriter::create(folder, io::layout_shards(specs)));
  return Rewriter(source, std::move(stages), std::move(writer));
}

Status Rewriter::write_stage(std::int64_t layer, const Changes& changes) {
  const auto& names = layer < 0 ? stages_.back() : stages_.at(static_cast<std::size_t>(layer));
  for (const std::string& name : names) OPTIQ_CHECK(write_tensor(name, changes));
  return {};
}

Status Rewriter::write_tensor(const std::string& name, const Changes& changes) {
  const io::TensorView& view = *source_->find(name);
  parameters_ += view.elements();
  const auto changed = changes.find(name);
  if (changed == changes.end()) return writer_.write(name, view.bytes);
  const mx::array stored = mx::contiguous(mx::astype(changed->second, mlx_dtype(view.dtype)));
  mx::array is_finite = mx::all(mx::isfinite(stored));
  OPTIQ_CHECK(model::evaluate({stored, is_finite}));
  if (!is_finite.item<bool>()) {
    return fail(ErrorCode::bad_input, "{}: tensor {}: folded, its values are not finite in {}",
                view.file.path().string(), name, dtype_name(view.dtype));
  }
  return writer_.write(name, {reinterpret_cast<const std::byte*>(stored.data<char>()), stored.nbytes()});
}

Status Rewriter::finish() {
  return writer_.finish(static_cast<std::uint64_t>(parameters_));
}

}  // namespace optiq::fold
