// Memory between two inaccessible pages: reading or writing a byte beyond it ends the test.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace optiq::test {

enum class Against { begin, end };

/// `count` elements that touch the inaccessible page before or behind them.
template <class T>
class Guarded {
 public:
  Guarded(std::size_t count, Against side) : count_(count) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t bytes = count * sizeof(T), inside = (bytes + page - 1) / page * page;
    mapped_ = inside + 2 * page;
    void* all = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (all == MAP_FAILED) throw std::runtime_error("mmap failed");
    base_ = static_cast<char*>(all);
    if (mprotect(base_, page, PROT_NONE) != 0 || mprotect(base_ + page + inside, page, PROT_NONE) != 0)
      throw std::runtime_error("mprotect failed");
    data_ = reinterpret_cast<T*>(base_ + page + (side == Against::end ? inside - bytes : 0));
  }
  Guarded(const std::vector<T>& values, Against side) : Guarded(values.data(), values.size(), side) {}
  Guarded(const T* values, std::size_t count, Against side) : Guarded(count, side) {
    std::memcpy(data_, values, count * sizeof(T));
  }
  ~Guarded() { munmap(base_, mapped_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  [[nodiscard]] T* data() { return data_; }
  [[nodiscard]] std::vector<T> values() const { return {data_, data_ + count_}; }

 private:
  std::size_t count_, mapped_ = 0;
  char* base_ = nullptr;
  T* data_ = nullptr;
};

}  // namespace optiq::test
