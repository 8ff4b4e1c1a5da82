#include "optiq/benchmark/machine.h"

#include <atomic>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "optiq/base/threads.h"
#include "optiq/kernels/limits.h"

namespace optiq::benchmark {
namespace {

namespace cpu = kernels::cpu;

constexpr std::size_t kBytes = std::size_t{512} << 20;
constexpr int kRepeats = 7;

double read_once(const void* memory, std::size_t prefetch_bytes) {
  constexpr std::size_t kPiece = 1 << 20;
  std::atomic<unsigned long long> sink = 0;
  const double seconds = seconds_of([&] {
    parallel_for(kBytes / kPiece, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i)
        sink ^= cpu::read_all(static_cast<const std::byte*>(memory) + i * kPiece, kPiece, prefetch_bytes);
    });
  });
  return static_cast<double>(kBytes) / seconds;
}

double median_read(const void* memory, std::size_t prefetch_bytes) {
  std::vector<double> rates;
  for (int i = 0; i < kRepeats; ++i) rates.push_back(read_once(memory, prefetch_bytes));
  return spread_of(std::move(rates)).median;
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

ReadRate::ReadRate() : memory_(kBytes) {
  if (memory_.data() == nullptr) return;
  auto* words = reinterpret_cast<std::uint64_t*>(memory_.data());
  for (std::size_t i = 0; i < kBytes / sizeof *words; ++i) words[i] = i;
  constexpr std::size_t kAhead = 2048;
  if (median_read(memory_.data(), kAhead) > median_read(memory_.data(), 0)) prefetch_bytes_ = kAhead;
}

double ReadRate::now() const {
  return memory_.data() == nullptr ? 0 : read_once(memory_.data(), prefetch_bytes_);
}

std::size_t ReadRate::buffer_bytes() const {
  return memory_.data() == nullptr ? 0 : kBytes;
}

MachineLimits measure_limits(const ReadRate& reads) {
  std::vector<double> rates;
  for (int i = 0; i < kRepeats; ++i) rates.push_back(reads.now());
  return {spread_of(std::move(rates)), spin_rate(cpu::spin_int8), spin_rate(cpu::spin_f32)};
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
