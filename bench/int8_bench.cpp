// The two ways of int8 products (src/kernels/cpu/int8_products.h) at few rows: where panels overtake dot
// products. Matrices of 8192 × 2048 in turn out of 256 MiB, so that weights come from memory as they do in a
// model; both ways alternate, and medians are compared. OPTIQ_CPU_ISA chooses the table.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <vector>

#include "optiq/base/random.h"
#include "optiq/base/statistics.h"
#include "src/kernels/cpu/int8_products.h"

namespace optiq::kernels::cpu {
namespace {

constexpr std::size_t kIn = 2048, kOut = 8192, kBytes = 256u << 20;
constexpr int kGroup = 64;

const std::vector<std::uint64_t>& random_words() {
  static const std::vector<std::uint64_t> words = [] {
    std::vector<std::uint64_t> all(kBytes / 8);
    Random random(1);
    for (std::uint64_t& word : all) word = random.next();
    return all;
  }();
  return words;
}

/// The i-th matrix of that width.
Matrix matrix(std::size_t i, int bits) {
  static const std::vector<float> values(kOut * kIn / kGroup, 0.01f);
  const std::size_t bytes = kOut * kIn * static_cast<std::size_t>(bits) / 8;
  const auto* data = reinterpret_cast<const char*>(random_words().data()) + i % (kBytes / bytes) * bytes;
  return {data, values.data(), values.data(), Storage::f32, kOut, kIn, bits, kGroup};
}

void crossover(benchmark::State& state) {
  const auto rows = static_cast<std::size_t>(state.range(1));
  const std::vector<float> x(rows * kIn, 0.5f);
  std::vector<float> y(rows * kOut);
  RoundedRows rounded;
  std::array<std::vector<double>, 2> seconds;
  std::size_t next = 0;
  for (auto _ : state) {
    for (const Int8Way way : {Int8Way::dots, Int8Way::panels}) {
      const Matrix w = matrix(next++, static_cast<int>(state.range(0)));
      const std::array uses{Use{&w, nullptr, y.data(), kOut, false}};
      const auto begin = std::chrono::steady_clock::now();
      rounded.begin(x.data(), rows, kIn);
      multiply_int8(rounded, rows, uses, way);
      seconds[static_cast<std::size_t>(way)].push_back(
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
  }
  const double dots = quantile(seconds[0], 0.5), panels = quantile(seconds[1], 0.5);
  state.counters["dots_ms"] = dots * 1e3;
  state.counters["panels_ms"] = panels * 1e3;
  state.counters["panels_over_dots"] = panels / dots;
}

BENCHMARK(crossover)
    ->ArgNames({"bits", "rows"})
    ->ArgsProduct({{2, 3, 4, 5, 6, 8},
                   {1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 17, 20, 24, 32, 48, 64, 128, 256}})
    ->Iterations(40)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace optiq::kernels::cpu

BENCHMARK_MAIN();
