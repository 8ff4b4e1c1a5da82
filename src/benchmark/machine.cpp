#include "optiq/benchmark/machine.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <fstream>
#include <string>

#include "optiq/base/threads.h"
#include "optiq/kernels/limits.h"

namespace optiq::benchmark {
namespace {

namespace cpu = kernels::cpu;

constexpr std::size_t kBytes = std::size_t{512} << 20;
constexpr int kRepeats = 7;

/// Anonymous memory that was written once.
class Memory {
 public:
  Memory() {
    void* p = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return;
    data_ = static_cast<std::uint64_t*>(p);
#if defined(MADV_HUGEPAGE)
    ::madvise(p, kBytes, MADV_HUGEPAGE);
#endif
    for (std::size_t i = 0; i < kBytes / 8; ++i) data_[i] = i;
  }
  ~Memory() {
    if (data_ != nullptr) ::munmap(data_, kBytes);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  [[nodiscard]] const std::uint8_t* data() const {
    return reinterpret_cast<const std::uint8_t*>(data_);
  }

 private:
  std::uint64_t* data_ = nullptr;
};

Spread read_rate(const Memory& memory, std::size_t prefetch_bytes) {
  constexpr std::size_t kPiece = 1 << 20;
  std::atomic<unsigned long long> sink = 0;
  const Spread seconds = time_repeats(kRepeats, [&] {
    parallel_for(kBytes / kPiece, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i)
        sink ^= cpu::read_all(memory.data() + i * kPiece, kPiece, prefetch_bytes);
    });
  });
  return rate(static_cast<double>(kBytes), seconds);
}

Spread read_limit() {
  const Memory memory;
  if (memory.data() == nullptr) return {};
  const Spread plain = read_rate(memory, 0), ahead = read_rate(memory, 2048);
  return ahead.median > plain.median ? ahead : plain;
}

/// All threads at once, each with as many rounds.
Spread spin_rate(double (*spin)(std::size_t rounds)) {
  constexpr std::size_t kRounds = 4'000'000;
  const double each = spin(1) * static_cast<double>(kRounds);
  if (each == 0) return {};
  const std::size_t threads = thread_count();
  const Spread seconds = time_repeats(
      kRepeats, [&] { parallel_for(threads, 1, [&](std::size_t, std::size_t) { spin(kRounds); }); });
  return rate(each * static_cast<double>(threads), seconds);
}

}  // namespace

MachineLimits measure_limits() {
  return {read_limit(), spin_rate(cpu::spin_int8), spin_rate(cpu::spin_f32)};
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const auto colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

}  // namespace optiq::benchmark
