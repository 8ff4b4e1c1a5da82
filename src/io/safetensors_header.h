// The JSON header as we write it: shared by the writer, by the size prediction and by the shard layout, so
// that the three cannot disagree.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "optiq/io/safetensors.h"

namespace optiq::io {

inline constexpr std::uint64_t kLengthBytes = 8;                 ///< The header length in front of the JSON.
inline constexpr std::uint64_t kLongestHeaderBytes = 100000000;  ///< The limit of the reference reader.

/// Collects tensors in file order. A tensor whose size overflows counts as empty (SafetensorsWriter::create
/// refuses it).
class HeaderBuilder {
 public:
  explicit HeaderBuilder(const std::map<std::string, std::string>& metadata);

  void add(const TensorSpec& spec);
  /// Bytes of the whole file with the tensors added so far.
  [[nodiscard]] std::uint64_t file_bytes() const { return header_bytes() + data_bytes_; }
  /// Bytes in front of the data, padding included.
  [[nodiscard]] std::uint64_t header_bytes() const;
  [[nodiscard]] std::uint64_t data_bytes() const { return data_bytes_; }
  /// Bytes the file would have with one more tensor.
  [[nodiscard]] std::uint64_t file_bytes_with(const TensorSpec& spec) const;
  /// The length and the padded JSON, as they stand in the file.
  [[nodiscard]] std::string bytes() const;

 private:
  [[nodiscard]] std::string entry(const TensorSpec& spec) const;

  std::string entries_;  ///< The object's members, without the braces around them.
  std::uint64_t data_bytes_ = 0;
};

}  // namespace optiq::io
