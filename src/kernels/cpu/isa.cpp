#include "isa.h"

#include <fmt/format.h>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "optiq/kernels/compute.h"

namespace optiq::kernels {
namespace cpu {
namespace {

#if defined(__x86_64__)
// By cpuid what not every compiler's __builtin_cpu_supports has a name for.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2") && has_f16c();
}

bool has_avxvnni() {
  constexpr unsigned kAvxVnni = 1u << 4;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & kAvxVnni) != 0;
}

bool has_gfni() {
  constexpr unsigned kGfni = 1u << 8;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (c & kGfni) != 0;
}

/// All of x86-64-v4, which avx512.cpp is compiled for.
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}

bool has_avx512vnni256() {
  return has_avx512() && __builtin_cpu_supports("avx512vnni");
}

bool has_avx512vnni() {
  return has_avx512vnni256() && __builtin_cpu_supports("avx512vbmi") && has_gfni();
}
#elif defined(__aarch64__) && defined(__APPLE__)
bool has_feature(const char* name) {
  int value = 0;
  std::size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}

bool has_dotprod() {
  return has_feature("hw.optional.arm.FEAT_DotProd");
}

bool has_i8mm() {
  return has_dotprod() && has_feature("hw.optional.arm.FEAT_I8MM");
}
#elif defined(__aarch64__)
// Linux's arch/arm64/include/uapi/asm/hwcap.h.
constexpr unsigned long kAsimdDotProd = 1ul << 20;  // HWCAP_ASIMDDP
constexpr unsigned long kI8mm = 1ul << 13;          // HWCAP2_I8MM

bool has_dotprod() {
  return (getauxval(AT_HWCAP) & kAsimdDotProd) != 0;
}

bool has_i8mm() {
  return has_dotprod() && (getauxval(AT_HWCAP2) & kI8mm) != 0;
}
#endif

}  // namespace

std::vector<const KernelTable*> available_kernels() {
  std::vector<const KernelTable*> tables;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (has_avx512vnni()) tables.push_back(&avx512vnni_kernels);
  if (has_avx512vnni256()) tables.push_back(&avx512vnni256_kernels);
  if (has_avxvnni()) tables.push_back(&avxvnni_kernels);
  if (has_avx512()) tables.push_back(&avx512_kernels);
  if (has_avx2()) tables.push_back(&avx2_kernels);
#elif defined(__aarch64__)
  if (has_i8mm()) tables.push_back(&neon_i8mm_kernels);
  if (has_dotprod()) tables.push_back(&neon_dotprod_kernels);
#endif
  tables.push_back(&generic_kernels);
  return tables;
}

const KernelTable& find_kernels(const char* name) {
  std::string names;
  for (const KernelTable* table : available_kernels()) {
    if (name == nullptr || std::string_view(name) == table->name) return *table;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", table->name);
  }
  throw std::invalid_argument(
      fmt::format("OPTIQ_CPU_ISA: expected what this machine has ({}), got \"{}\"", names, name));
}

const KernelTable& kernels() {
  static const KernelTable& chosen = find_kernels(std::getenv("OPTIQ_CPU_ISA"));
  return chosen;
}

}  // namespace cpu

std::string_view cpu_isa() {
  return cpu::kernels().name;
}

}  // namespace optiq::kernels
