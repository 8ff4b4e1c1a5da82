// Random tensors for tests of file formats.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "optiq/base/random.h"
#include "optiq/io/safetensors.h"

namespace optiq::test {

inline std::vector<std::byte> random_bytes(Random& random, std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.next() & 0xff);
  return bytes;
}

struct StoredTensor {
  io::TensorSpec spec;
  std::vector<std::byte> bytes;
};

inline StoredTensor random_tensor(Random& random, std::string name, DType dtype,
                                  std::vector<std::int64_t> shape) {
  StoredTensor tensor{{std::move(name), dtype, std::move(shape)}, {}};
  tensor.bytes = random_bytes(random, io::tensor_bytes(tensor.spec).value());
  if (dtype == DType::boolean) {
    for (std::byte& byte : tensor.bytes) byte &= std::byte{1};
  }
  return tensor;
}

/// Every dtype in shapes of rank 0 to 3, empty ones among them, names with characters that JSON escapes.
inline std::vector<StoredTensor> random_tensors(Random& random) {
  std::vector<StoredTensor> tensors;
  for (int i = 0; i <= static_cast<int>(DType::f64); ++i) {
    const auto dtype = static_cast<DType>(i);
    const auto extent = [&] { return static_cast<std::int64_t>(1 + random.below(5)); };
    const std::string prefix = std::string("layer.") + std::string(dtype_name(dtype));
    tensors.push_back(random_tensor(random, prefix + ".scalar", dtype, {}));
    tensors.push_back(random_tensor(random, prefix + ".empty", dtype, {extent(), 0, extent()}));
    tensors.push_back(random_tensor(random, prefix + ".vector", dtype, {extent()}));
    tensors.push_back(
        random_tensor(random, prefix + " \"q\" \\ \n é", dtype, {extent(), extent(), extent()}));
  }
  return tensors;
}

inline std::vector<io::TensorSpec> specs_of(const std::vector<StoredTensor>& tensors) {
  std::vector<io::TensorSpec> specs;
  for (const StoredTensor& tensor : tensors) specs.push_back(tensor.spec);
  return specs;
}

}  // namespace optiq::test
