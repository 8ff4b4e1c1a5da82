// What the machine can do: the limits that the kernels are measured against.
#pragma once

#include <string>

#include "optiq/benchmark/timing.h"

namespace optiq::benchmark {

/// With every thread of base's pool at once.
struct MachineLimits {
  Spread
      read_bytes_per_second;  ///< summing 512 MiB of huge pages, with and without prefetches: the faster way
  Spread int8_macs_per_second;  ///< the instruction set's int8 multiply-add in registers; 0 where it has none
  Spread f32_macs_per_second;   ///< fused multiply-adds in registers
};

/// Takes about a second.
MachineLimits measure_limits();

/// The processor's name; "unknown" where the system does not say.
std::string cpu_name();

}  // namespace optiq::benchmark
