// A safetensors file in memory, to be bent.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "optiq/io/safetensors.h"

namespace optiq::test {

struct TensorFile {
  std::map<std::string, std::string> metadata;
  std::vector<io::TensorSpec> specs;
  std::vector<std::vector<std::byte>> bytes;

  static TensorFile read(const std::filesystem::path& path) {
    const auto file = io::SafetensorsFile::open(path).value();
    TensorFile content{file.metadata(), {}, {}};
    for (const auto& [name, view] : file.tensors()) {
      content.specs.push_back({name, view.dtype, view.shape});
      content.bytes.emplace_back(view.bytes.begin(), view.bytes.end());
    }
    return content;
  }
  void write(const std::filesystem::path& path) const {
    auto writer = io::SafetensorsWriter::create(path, specs, metadata).value();
    for (const auto& tensor : bytes) ASSERT_TRUE(writer.append(tensor));
    ASSERT_TRUE(writer.finish());
  }

  [[nodiscard]] std::size_t index(const std::string& name) const {
    const auto found = std::ranges::find(specs, name, &io::TensorSpec::name);
    return static_cast<std::size_t>(found - specs.begin());
  }
  [[nodiscard]] io::TensorSpec& spec(const std::string& name) { return specs.at(index(name)); }
  /// Another shape, and bytes of zeros.
  void resize(const std::string& name, std::vector<std::int64_t> shape) {
    spec(name).shape = std::move(shape);
    bytes[index(name)].assign(io::tensor_bytes(spec(name)).value(), std::byte{0});
  }
  /// Another extent along an axis.
  void resize(const std::string& name, std::size_t axis, std::int64_t extent) {
    std::vector<std::int64_t> shape = spec(name).shape;
    shape.at(axis) = extent;
    resize(name, std::move(shape));
  }
  void erase(const std::string& name) {
    const auto i = static_cast<std::ptrdiff_t>(index(name));
    specs.erase(specs.begin() + i);
    bytes.erase(bytes.begin() + i);
  }
};

}  // namespace optiq::test
