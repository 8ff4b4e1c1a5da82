#include <cstring>
#include <limits>

#include "load_weights.h"

namespace optiq::model {
namespace {

Result<mx::Shape> mlx_shape(const io::TensorView& tensor) {
  mx::Shape shape;
  for (const std::int64_t extent : tensor.shape) {
    if (extent > std::numeric_limits<mx::ShapeElem>::max()) {
      return fail(ErrorCode::bad_input, "{}: tensor {}: an extent of {} exceeds what MLX can index",
                  tensor.file.path().string(), tensor.name, extent);
    }
    shape.push_back(static_cast<mx::ShapeElem>(extent));
  }
  return shape;
}

/// Whether a Buffer of MLX's allocator is `a size_t in front of the data`, as its CPU-only allocator has it.
/// Only then can a foreign pointer be wrapped without a copy; array's pointer constructor copies there.
bool buffers_have_a_header() {
  static const bool result = [] {
    const mx::allocator::Data probe = mx::allocator::malloc(64);
    mx::allocator::Buffer buffer = probe.buffer();
    const auto* data = static_cast<const std::byte*>(buffer.raw_ptr());
    const bool found = data == static_cast<const std::byte*>(buffer.ptr()) + sizeof(std::size_t);
    return found;
  }();
  return result;
}

mx::array wrap(std::shared_ptr<const void> owner, const void* data, mx::Shape shape, mx::Dtype dtype) {
  void* address =
      const_cast<void*>(data);  // MLX writes only to buffers that it owns alone: see Model's comment
  if (!buffers_have_a_header()) {
    return mx::array(address, std::move(shape), dtype, [owner = std::move(owner)](void*) {});
  }
  const mx::allocator::Buffer buffer(static_cast<std::byte*>(address) - sizeof(std::size_t));
  return mx::array(mx::allocator::Data(buffer, [owner = std::move(owner)](mx::allocator::Buffer) {}),
                   std::move(shape), dtype);
}

}  // namespace

std::optional<mx::Dtype> mlx_dtype(DType dtype) {
  switch (dtype) {
    case DType::u32:
      return mx::uint32;
    case DType::f16:
      return mx::float16;
    case DType::bf16:
      return mx::bfloat16;
    case DType::f32:
      return mx::float32;
    default:
      return std::nullopt;
  }
}

Result<mx::array> map_tensor(const io::TensorView& tensor) {
  const std::optional<mx::Dtype> dtype = mlx_dtype(tensor.dtype);
  if (!dtype) {
    return fail(ErrorCode::bad_input, "{}: tensor {}: expected F16, BF16, F32 or U32, got {}",
                tensor.file.path().string(), tensor.name, dtype_name(tensor.dtype));
  }
  OPTIQ_TRY(mx::Shape shape, mlx_shape(tensor));
  const std::byte* data = tensor.bytes.data();
  const bool aligned = reinterpret_cast<std::uintptr_t>(data) % dtype_bytes(tensor.dtype) == 0;
  if (aligned) {
    return wrap(std::make_shared<MappedFile>(tensor.file), data, std::move(shape), *dtype);
  }
  if (tensor.file.access() == Access::streamed) {
    return fail(ErrorCode::out_of_resources,
                "{}: tensor {}: lies unaligned, so that it cannot be streamed; write the checkpoint anew",
                tensor.file.path().string(), tensor.name);
  }
  // The header word that MLX's allocator has in front of the data is inside the copy too.
  auto copy = std::make_shared<std::vector<std::uint64_t>>(1 + (tensor.bytes.size() + 7) / 8);
  std::uint64_t* begin = copy->data() + 1;
  std::memcpy(begin, data, tensor.bytes.size());
  return wrap(std::move(copy), begin, std::move(shape), *dtype);
}

}  // namespace optiq::model
