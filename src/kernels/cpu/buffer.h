// Memory that is kept from call to call and only grows.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace optiq::kernels::cpu {

/// Uninitialised elements, 64-byte aligned. T is trivial.
template <class T>
class GrowingBuffer {
 public:
  /// Room for `count` elements; what was there is lost where it did not fit.
  T* reserve(std::size_t count) {
    if (count > size_) {
      data_.reset();
      size_ = 0;  // a failed allocation leaves nothing
      data_.reset(static_cast<T*>(::operator new(count * sizeof(T), kAlignment)));
      size_ = count;
    }
    return data_.get();
  }
  [[nodiscard]] T* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* p) const { ::operator delete(p, kAlignment); }
  };
  std::unique_ptr<T, Free> data_;
  std::size_t size_ = 0;
};

}  // namespace optiq::kernels::cpu
