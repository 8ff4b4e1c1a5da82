// What the machine can do: the limits that the kernels are measured against.
#pragma once

#include <cstddef>
#include <string>

#include "optiq/base/huge_pages.h"
#include "optiq/benchmark/timing.h"

namespace optiq::benchmark {

/// With every thread of base's pool at once.
struct MachineLimits {
  Spread
      read_bytes_per_second;  ///< summing 512 MiB of huge pages, with and without prefetches: the faster way
  Spread int8_macs_per_second;  ///< the instruction set's int8 multiply-add in registers; 0 where it has none
  Spread f32_macs_per_second;   ///< fused multiply-adds in registers
};

/// The rate at which memory is read, for measurements that a change of it would spoil: shared machines have
/// other users, whose traffic comes and goes.
class ReadRate {
 public:
  ReadRate();
  ReadRate(const ReadRate&) = delete;
  ReadRate& operator=(const ReadRate&) = delete;

  /// Bytes a second, of reading buffer_bytes() once; some milliseconds.
  [[nodiscard]] double now() const;
  /// 512 MiB that stay resident.
  [[nodiscard]] std::size_t buffer_bytes() const;

 private:
  HugePages memory_;
  std::size_t prefetch_bytes_ = 0;  ///< the faster of two ways
};

/// Takes about a second.
MachineLimits measure_limits(const ReadRate& reads);

/// The processor's name; "unknown" where the system does not say.
std::string cpu_name();

}  // namespace optiq::benchmark
