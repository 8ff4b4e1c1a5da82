// A state as bytes of one machine: plain values and f32 arrays one after another. Both sides know what comes;
// a reader notices bytes that are too few or too many.
#pragma once

#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "optiq/model/model.h"

namespace optiq::tune {

class StateWriter {
 public:
  template <class T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    put_bytes(std::as_bytes(std::span(&value, 1)));
  }
  void put_bytes(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  /// Of f32, evaluated and contiguous.
  void put_array(const model::mx::array& values) {
    put_bytes(std::as_bytes(std::span(values.data<float>(), values.size())));
  }
  [[nodiscard]] std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

class StateReader {
 public:
  explicit StateReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  /// Empty where there are not so many left; nothing is read from then on.
  std::span<const std::byte> get_bytes(std::uint64_t count) {
    if (count > bytes_.size() || has_failed_) {
      has_failed_ = true;
      return {};
    }
    const auto found = bytes_.first(count);
    bytes_ = bytes_.subspan(count);
    return found;
  }
  /// False where too few are left, as below.
  template <class T>
  bool get(T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto bytes = get_bytes(sizeof value);
    if (has_failed_) return false;
    std::memcpy(&value, bytes.data(), sizeof value);
    return true;
  }
  /// An f32 array of the shape that `values` has.
  bool get_array(model::mx::array& values) {
    const auto bytes = get_bytes(values.size() * sizeof(float));
    if (has_failed_) return false;
    model::mx::array found = model::mx::zeros(values.shape(), model::mx::float32);
    found.eval();
    if (!bytes.empty()) std::memcpy(found.data<float>(), bytes.data(), bytes.size());
    values = std::move(found);
    return true;
  }
  /// Whether all was there and nothing is left.
  [[nodiscard]] bool is_complete() const { return !has_failed_ && bytes_.empty(); }

 private:
  std::span<const std::byte> bytes_;
  bool has_failed_ = false;
};

}  // namespace optiq::tune
