// Builds GGUF files in memory, truthful ones and lying ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "optiq/io/gguf_types.h"

namespace optiq::test {

class Bytes {
 public:
  template <class T>
  Bytes& put(T value) {
    const auto* begin = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), begin, begin + sizeof value);
    return *this;
  }
  Bytes& raw(std::string_view text) {
    const auto* begin = reinterpret_cast<const std::byte*>(text.data());
    bytes_.insert(bytes_.end(), begin, begin + text.size());
    return *this;
  }
  Bytes& string(std::string_view text) { return put<std::uint64_t>(text.size()).raw(text); }
  Bytes& append(const std::vector<std::byte>& more) {
    bytes_.insert(bytes_.end(), more.begin(), more.end());
    return *this;
  }
  Bytes& pad_to(std::size_t alignment) {
    while (bytes_.size() % alignment != 0) bytes_.push_back(std::byte{0});
    return *this;
  }
  [[nodiscard]] const std::vector<std::byte>& bytes() const { return bytes_; }
  [[nodiscard]] std::size_t size() const { return bytes_.size(); }

 private:
  std::vector<std::byte> bytes_;
};

/// The parts of a GGUF file; build() puts them together. Public fields are what a lying file changes.
class GgufBuilder {
 public:
  using ValueType = io::GgufValueType;

  template <class T>
  GgufBuilder& scalar(std::string_view key, ValueType type, T value) {
    return entry(key, type, Bytes().put(value));
  }
  GgufBuilder& u32(std::string_view key, std::uint32_t value) { return scalar(key, ValueType::u32, value); }
  GgufBuilder& f32(std::string_view key, float value) { return scalar(key, ValueType::f32, value); }
  GgufBuilder& boolean(std::string_view key, bool value) {
    return scalar(key, ValueType::boolean, static_cast<std::uint8_t>(value));
  }
  GgufBuilder& string(std::string_view key, std::string_view value) {
    return entry(key, ValueType::string, Bytes().string(value));
  }
  GgufBuilder& strings(std::string_view key, const std::vector<std::string>& values) {
    Bytes payload;
    payload.put(ValueType::string).put<std::uint64_t>(values.size());
    for (const std::string& value : values) payload.string(value);
    return entry(key, ValueType::array, payload);
  }
  template <class T>
  GgufBuilder& array(std::string_view key, ValueType element, const std::vector<T>& values) {
    Bytes payload;
    payload.put(element).put<std::uint64_t>(values.size());
    for (const T& value : values) payload.put(value);
    return entry(key, ValueType::array, payload);
  }
  GgufBuilder& entry(std::string_view key, ValueType type, const Bytes& payload) {
    metadata_.string(key).put(type).append(payload.bytes());
    ++metadata_count;
    return *this;
  }

  /// A tensor with its bytes; `shape` is row-major (slowest first), the file gets it reversed.
  GgufBuilder& tensor(std::string_view name, io::GgufTensorType type, std::vector<std::uint64_t> shape,
                      const std::vector<std::byte>& bytes) {
    data_.pad_to(alignment);
    info(name, type, std::move(shape), data_.size());
    data_.append(bytes);
    return *this;
  }
  GgufBuilder& tensor(std::string_view name, std::vector<std::uint64_t> shape,
                      const std::vector<float>& values) {
    Bytes bytes;
    for (const float value : values) bytes.put(value);
    return tensor(name, io::GgufTensorType::f32, std::move(shape), bytes.bytes());
  }
  /// A tensor info alone, with whatever it claims.
  GgufBuilder& info(std::string_view name, io::GgufTensorType type, const std::vector<std::uint64_t>& shape,
                    std::uint64_t offset) {
    infos_.string(name).put(static_cast<std::uint32_t>(shape.size()));
    for (auto extent = shape.rbegin(); extent != shape.rend(); ++extent) infos_.put(*extent);
    infos_.put(type).put(offset);
    ++tensor_count;
    return *this;
  }

  [[nodiscard]] std::vector<std::byte> build() const {
    Bytes file;
    file.raw(magic).put(version).put(tensor_count).put(metadata_count);
    file.append(metadata_.bytes()).append(infos_.bytes()).pad_to(alignment).append(data_.bytes());
    return file.bytes();
  }

  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::uint64_t tensor_count = 0;
  std::uint64_t metadata_count = 0;
  std::size_t alignment = 32;  ///< of the data; a file with another one also needs general.alignment

 private:
  Bytes metadata_;
  Bytes infos_;
  Bytes data_;
};

}  // namespace optiq::test
