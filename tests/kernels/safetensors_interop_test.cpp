// Our safetensors files against MLX's own reader and writer (in this layer because io links no MLX).
#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <random>

#include "optiq/io/checkpoint.h"
#include "support/random_tensors.h"
#include "support/temporary_folder.h"

namespace optiq::kernels {
namespace {

namespace mx = mlx::core;
namespace fs = std::filesystem;

/// nullopt for what MLX cannot read from safetensors.
std::optional<mx::Dtype> mlx_dtype(DType dtype) {
  switch (dtype) {
    case DType::boolean:
      return mx::bool_;
    case DType::u8:
      return mx::uint8;
    case DType::i8:
      return mx::int8;
    case DType::u16:
      return mx::uint16;
    case DType::i16:
      return mx::int16;
    case DType::u32:
      return mx::uint32;
    case DType::i32:
      return mx::int32;
    case DType::u64:
      return mx::uint64;
    case DType::i64:
      return mx::int64;
    case DType::f16:
      return mx::float16;
    case DType::bf16:
      return mx::bfloat16;
    case DType::f32:
      return mx::float32;
    case DType::f64:
      return std::nullopt;
  }
  return std::nullopt;
}

std::vector<test::StoredTensor> tensors_for_mlx(Random& random) {
  std::vector<test::StoredTensor> tensors = test::random_tensors(random);
  std::erase_if(tensors, [](const test::StoredTensor& t) { return !mlx_dtype(t.spec.dtype); });
  return tensors;
}

mx::Shape mlx_shape(const std::vector<std::int64_t>& shape) {
  mx::Shape result;
  for (const std::int64_t extent : shape) result.push_back(static_cast<int>(extent));
  return result;
}

mx::array to_mlx(const test::StoredTensor& tensor) {
  mx::array bytes(reinterpret_cast<const std::uint8_t*>(tensor.bytes.data()),
                  {static_cast<int>(tensor.bytes.size())}, mx::uint8);
  mx::array typed = tensor.spec.dtype == DType::boolean ? mx::astype(bytes, mx::bool_)
                                                        : mx::view(bytes, *mlx_dtype(tensor.spec.dtype));
  return mx::reshape(typed, mlx_shape(tensor.spec.shape));
}

void expect_same_bytes(mx::array array, const test::StoredTensor& tensor) {
  array.eval();
  EXPECT_EQ(array.dtype(), mlx_dtype(tensor.spec.dtype)) << tensor.spec.name;
  ASSERT_EQ(array.shape(), mlx_shape(tensor.spec.shape)) << tensor.spec.name;
  ASSERT_EQ(array.nbytes(), tensor.bytes.size());
  if (array.nbytes() == 0) return;
  EXPECT_EQ(std::memcmp(array.data<std::uint8_t>(), tensor.bytes.data(), tensor.bytes.size()), 0)
      << tensor.spec.name;
}

TEST(SafetensorsInterop, MlxReadsWhatWeWrite) {
  const test::TemporaryFolder folder;
  Random random(std::random_device{}());
  const auto tensors = tensors_for_mlx(random);
  const io::ShardLayout layout = io::layout_shards(test::specs_of(tensors), 2500);
  ASSERT_GT(layout.file_names.size(), 1u);
  auto writer = io::CheckpointWriter::create(folder.path(), layout).value();
  for (const auto& tensor : tensors) ASSERT_TRUE(writer.write(tensor.spec.name, tensor.bytes));
  ASSERT_TRUE(writer.finish(1));
  std::unordered_map<std::string, mx::array> all;
  for (const std::string& name : layout.file_names) {
    const auto [arrays, metadata] = mx::load_safetensors((folder.path() / name).string());
    EXPECT_EQ(metadata.at("format"), "mlx");
    all.insert(arrays.begin(), arrays.end());
  }
  ASSERT_EQ(all.size(), tensors.size());
  for (const auto& tensor : tensors) expect_same_bytes(all.at(tensor.spec.name), tensor);
}

TEST(SafetensorsInterop, WeReadWhatMlxWrites) {
  const test::TemporaryFolder folder;
  Random random(std::random_device{}());
  const auto tensors = tensors_for_mlx(random);
  std::unordered_map<std::string, mx::array> arrays;
  for (const auto& tensor : tensors) arrays.insert({tensor.spec.name, to_mlx(tensor)});
  const fs::path path = folder.path() / "a.safetensors";
  mx::save_safetensors(path.string(), arrays, {{"format", "mlx"}});
  const auto file = io::SafetensorsFile::open(path).value();
  EXPECT_EQ(file.metadata().at("format"), "mlx");
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const auto& tensor : tensors) {
    const io::TensorView& view = file.tensors().at(tensor.spec.name);
    EXPECT_EQ(view.dtype, tensor.spec.dtype);
    EXPECT_EQ(view.shape, tensor.spec.shape);
    EXPECT_TRUE(std::ranges::equal(view.bytes, tensor.bytes)) << tensor.spec.name;
  }
}

}  // namespace
}  // namespace optiq::kernels
