// Working memory of one thread, kept for its next task: a tile's buffers cost page faults once.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace optiq::kernels::cpu {

/// Buffers that may be in use at the same time on one thread have different slots.
enum class Slot { weights, group_values, scores, gradients, narrow_a, narrow_b, backend, count };

/// At least `count` uninitialised elements of T, 64-byte aligned; valid until the next call for this slot on
/// this thread.
template <class T>
T* scratch(Slot slot, std::size_t count) {
  struct Buffer {
    std::unique_ptr<std::byte[]> bytes;
    std::size_t size = 0;
  };
  static thread_local std::array<Buffer, static_cast<std::size_t>(Slot::count)> buffers;
  constexpr std::size_t kAlignment = 64;
  Buffer& buffer = buffers[static_cast<std::size_t>(slot)];
  if (buffer.size < count * sizeof(T)) {
    buffer.bytes.reset();
    buffer.size = 0;  // a failed allocation leaves nothing
    buffer.bytes = std::unique_ptr<std::byte[]>(new std::byte[count * sizeof(T) + kAlignment]);
    buffer.size = count * sizeof(T);
  }
  const auto address = reinterpret_cast<std::uintptr_t>(buffer.bytes.get());
  return reinterpret_cast<T*>((address + kAlignment - 1) / kAlignment * kAlignment);
}

}  // namespace optiq::kernels::cpu
