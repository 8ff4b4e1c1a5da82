// Attention of one token over a cache, formats in turn: 16 blocks of 8 heads, whose caches come from memory as
// they do in a model. Beside them the time to read as many bytes as each format has. OPTIQ_CPU_ISA and
// OPTIQ_THREADS choose.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>
#include <vector>

#include "optiq/base/random.h"
#include "optiq/base/statistics.h"
#include "optiq/base/threads.h"
#include "optiq/kernels/kv_cache.h"
#include "optiq/kernels/limits.h"

namespace optiq::kernels::cpu {
namespace {

using Floats = std::vector<float>;

constexpr std::size_t kBlocks = 16, kHeads = 8;

Floats random_floats(std::size_t count) {
  Floats values(count);
  Random random(1);
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

std::vector<LayerCache> filled_caches(CacheFormat format, std::size_t head_dim, std::size_t depth) {
  constexpr std::size_t kPass = 256;
  const std::size_t width = kHeads * head_dim;
  const Floats keys = random_floats(kPass * width);
  std::vector<LayerCache> caches;
  for (std::size_t i = 0; i < kBlocks; ++i) {
    LayerCache& cache = caches.emplace_back(CacheShape{kHeads, head_dim, format});
    for (std::size_t t = 0; t < depth; t += kPass) {
      cache.append(keys.data(), keys.data(), width, std::min(kPass, depth - t));
      cache.settle();
    }
  }
  return caches;
}

template <class Body>
double milliseconds(const Body& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

/// GB/s of all threads together.
double read_rate() {
  constexpr std::size_t kBytes = 256u << 20, kPiece = 1u << 20, kAhead = 4096;
  static const std::vector<std::uint64_t> words(kBytes / 8, 1);
  const double ms = milliseconds([] {
    parallel_for(kBytes / kPiece, 1, [](std::size_t begin, std::size_t end) {
      benchmark::DoNotOptimize(
          read_all(words.data() + begin * kPiece / 8, (end - begin) * kPiece, kAhead));
    });
  });
  return kBytes / ms / 1e6;
}

/// One format's caches and what was measured of them.
struct Candidate {
  std::string name;
  std::vector<LayerCache> caches;
  std::vector<double> ms = {};

  void attend_all(const Floats& q, std::size_t group, Floats& y) {
    static AttentionMemory memory;
    const std::size_t d = caches[0].shape().head_dim, q_heads = kHeads * group;
    const float scale = 1 / std::sqrt(static_cast<float>(d));
    ms.push_back(milliseconds([&] {
      for (const LayerCache& cache : caches)
        attend(cache, {q.data(), q_heads * d, y.data(), 1, q_heads, scale, 0}, memory);
    }));
  }
  [[nodiscard]] std::size_t bytes() const { return kBlocks * caches[0].bytes(); }
};

void attention(benchmark::State& state) {
  const auto depth = static_cast<std::size_t>(state.range(0)), d = static_cast<std::size_t>(state.range(1)),
             group = static_cast<std::size_t>(state.range(2));
  std::vector<Candidate> candidates;
  for (const auto& [name, storage] : {std::pair("f16", CacheStorage::f16), {"8", CacheStorage::packed8},
                                      {"4", CacheStorage::packed4}, {"3", CacheStorage::packed3}})
    candidates.push_back({name, filled_caches(storage, d, depth)});
  const Floats q = random_floats(kHeads * group * d);
  Floats y(q.size());
  std::vector<double> rates;
  for (auto _ : state) {
    rates.push_back(read_rate());
    for (Candidate& candidate : candidates) candidate.attend_all(q, group, y);
  }
  state.counters["read_GB_s"] = quantile(rates, 0.5);
  for (const Candidate& c : candidates) {
    const double ms = quantile(c.ms, 0.5);
    state.counters[c.name + "_ms"] = ms;
    state.counters[c.name + "_least"] = quantile(c.ms, 0);
    state.counters[c.name + "_most"] = quantile(c.ms, 1);
    state.counters[c.name + "_GB_s"] = static_cast<double>(c.bytes()) / ms / 1e6;
  }
}

BENCHMARK(attention)
    ->ArgNames({"depth", "head_dim", "group"})
    ->ArgsProduct({{4096, 8192}, {64, 128}, {1, 4, 8}})
    ->Iterations(15)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace optiq::kernels::cpu

BENCHMARK_MAIN();
