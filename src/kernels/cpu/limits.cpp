#include "optiq/kernels/limits.h"

#include "isa.h"

namespace optiq::kernels::cpu {

unsigned long long read_all(const void* p, std::size_t bytes, std::size_t prefetch_bytes) {
  return kernels().read_all(p, bytes, prefetch_bytes);
}

double spin_f32(std::size_t rounds) {
  return kernels().spin_f32(rounds);
}

double spin_int8(std::size_t rounds) {
  return kernels().spin_int8(rounds);
}

}  // namespace optiq::kernels::cpu
