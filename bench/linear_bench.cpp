// linear and a whole decoder block at the shapes of small models, 512 tokens, each beside the GEMM rate that
// the same run measured: GFLOP/s and the fraction of that peak. Best of the repetitions: other work on the
// machine only ever slows one down.
#include <benchmark/benchmark.h>
#include <mlx/mlx.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <functional>
#include <vector>

#include "optiq/base/random.h"
#include "optiq/base/threads.h"
#include "optiq/kernels/ops.h"
#include "src/kernels/cpu/gemm.h"

namespace optiq::kernels {
namespace {

constexpr int kRows = 512;

/// Wall and processor time of one run, in seconds.
struct Seconds {
  double wall = 1e9, cpu = 1e9;
};

Seconds least(Seconds a, Seconds b) {
  return {std::min(a.wall, b.wall), std::min(a.cpu, b.cpu)};
}

Seconds seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  const std::clock_t cpu = std::clock();
  work();
  return {std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(),
          static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC};
}

mx::array random_array(mx::Shape shape, mx::Dtype dtype = mx::float32) {
  mx::array array = mx::astype(mx::random::normal(std::move(shape)), dtype);
  array.eval();
  return array;
}

/// Runs `work` once an iteration; `flops` = operations of one run, `peak` what the machine needs for one.
void measure(benchmark::State& state, double flops, Seconds peak, const std::function<void()>& work) {
  Seconds best;
  work();
  for (auto _ : state) {
    const Seconds seconds = seconds_of(work);
    state.SetIterationTime(seconds.wall);
    best = least(best, seconds);
  }
  state.counters["best_ms"] = best.wall * 1e3;
  state.counters["cpu_ms"] = best.cpu * 1e3;
  if (flops == 0) return;
  state.counters["GFLOP/s"] = flops / best.wall / 1e9;
  state.counters["of_peak"] = flops / best.wall * peak.wall;
  state.counters["of_cpu_peak"] = flops / best.cpu * peak.cpu;
}

/// Rate of square products on every thread, operands in the cache: what the backend can reach here.
template <class T>
Seconds gemm_peak() {
  constexpr std::size_t n = 512;
  const std::vector<T> a(n * n, static_cast<T>(1)), b(n * n, static_cast<T>(1));
  const std::size_t tasks = 4 * thread_count();
  std::vector<float> c(tasks * n * n);
  Seconds best;
  for (int repeat = 0; repeat < 8; ++repeat) {
    best =
        least(best, seconds_of([&] {
                parallel_for(tasks, 1, [&](std::size_t task, std::size_t) {
                  cpu::multiply(cpu::Product<T>{n, n, n, {a.data(), n}, {b.data(), n}, &c[task * n * n], n});
                });
              }));
  }
  const double flops = 2.0 * static_cast<double>(tasks * n * n * n);
  return {best.wall / flops, best.cpu / flops};
}

/// Seconds an operation.
Seconds peak_of(Compute compute) {
  static const Seconds f32 = gemm_peak<float>(), bf16 = gemm_peak<std::uint16_t>();
  return compute == Compute::f32 ? f32 : bf16;
}

void peak(benchmark::State& state, Compute compute) {
  for (auto _ : state) state.SetIterationTime(1e-9);
  state.counters["GFLOP/s"] = 1e-9 / peak_of(compute).wall;
  state.counters["GFLOP/cpu_s"] = 1e-9 / peak_of(compute).cpu;
}

void linear_forward(benchmark::State& state, Compute compute) {
  const int in = static_cast<int>(state.range(0)), out = static_cast<int>(state.range(1));
  const mx::array x = random_array({kRows, in}), w = random_array({out, in}, mx::bfloat16);
  measure(state, 2.0 * kRows * in * out, peak_of(compute),
          [&] { linear(x, w, std::nullopt, compute).eval(); });
}

void linear_gradients(benchmark::State& state, Compute compute) {
  const int in = static_cast<int>(state.range(0)), out = static_cast<int>(state.range(1));
  const mx::array x = random_array({kRows, in}), w = random_array({out, in}, mx::bfloat16),
                  dy = random_array({kRows, out});
  const auto f = [=](const std::vector<mx::array>& a) {
    return std::vector{linear(a[0], a[1], std::nullopt, compute)};
  };
  measure(state, 4.0 * kRows * in * out, peak_of(compute), [&] {
    mx::eval(mx::vjp(f, {x, w}, {dy}).second);
  });
}

/// Tokens of one decoding step read every weight once: GB/s of weights is what counts.
void linear_decode(benchmark::State& state) {
  const int in = static_cast<int>(state.range(0)), out = static_cast<int>(state.range(1));
  const mx::array x = random_array({1, in}), w = random_array({out, in}, mx::bfloat16);
  measure(state, 0, {}, [&] { linear(x, w).eval(); });
  state.counters["GB/s"] = 2.0 * in * out / (state.counters["best_ms"].value / 1e3) / 1e9;
}

void quantized_decode(benchmark::State& state) {
  const int in = 2048, out = 8192, bits = static_cast<int>(state.range(0));
  const mx::array x = random_array({1, in}), words = mx::zeros({out, in / 32 * bits}, mx::uint32);
  const mx::array scales = random_array({out, in / 64}, mx::bfloat16);
  const QuantizedWeight w{words, scales, scales, bits, 64};
  mx::eval(words);
  measure(state, 0, {}, [&] { quantized_linear(x, w).eval(); });
  const double bytes = static_cast<double>(words.nbytes() + 2 * scales.nbytes());
  state.counters["GB/s"] = bytes / (state.counters["best_ms"].value / 1e3) / 1e9;
}

/// A SmolLM2-135M block: hidden 576, 9 query and 3 key/value heads of 64, feed-forward 1536.
struct Block {
  Compute compute;
  mx::array norm = mx::ones({576}), frequencies = mx::ones({32});
  std::vector<mx::array> weights{
      random_array({576, 576}, mx::bfloat16),  random_array({192, 576}, mx::bfloat16),
      random_array({192, 576}, mx::bfloat16),  random_array({576, 576}, mx::bfloat16),
      random_array({1536, 576}, mx::bfloat16), random_array({1536, 576}, mx::bfloat16),
      random_array({576, 1536}, mx::bfloat16)};

  static mx::array heads(const mx::array& x, int count) {
    return mx::transpose(mx::reshape(x, {1, kRows, count, 64}), {0, 2, 1, 3});
  }

  [[nodiscard]] mx::array operator()(const mx::array& x, const std::vector<mx::array>& w) const {
    const auto times = [&](const mx::array& a, std::size_t i) {
      return linear(a, w[i], std::nullopt, compute);
    };
    const mx::array h = rms_norm(x, norm, 1e-5f);
    const mx::array q = rope(heads(times(h, 0), 9), frequencies, 0),
                    k = rope(heads(times(h, 1), 3), frequencies, 0);
    const mx::array a = attention(q, k, heads(times(h, 2), 3), 0.125f);
    const mx::array y = mx::add(x, times(mx::reshape(mx::transpose(a, {0, 2, 1, 3}), {1, kRows, 576}), 3));
    const mx::array g = rms_norm(y, norm, 1e-5f);
    return mx::add(y, times(swiglu(times(g, 4), times(g, 5)), 6));
  }
};

constexpr double kBlockFlops = 2.0 * kRows * (576 * 576 * 2 + 192 * 576 * 2 + 1536 * 576 * 3);

void block_forward(benchmark::State& state, Compute compute) {
  const Block block{compute};
  const mx::array x = random_array({1, kRows, 576});
  measure(state, kBlockFlops, peak_of(compute), [&] { block(x, block.weights).eval(); });
}

void block_gradients(benchmark::State& state, Compute compute) {
  const Block block{compute};
  const mx::array x = random_array({1, kRows, 576});
  std::vector<mx::array> inputs{x};
  inputs.insert(inputs.end(), block.weights.begin(), block.weights.end());
  const auto f = [&](const std::vector<mx::array>& a) {
    return std::vector{block(a[0], {a.begin() + 1, a.end()})};
  };
  measure(state, 3 * kBlockFlops, peak_of(compute), [&] { mx::eval(mx::vjp(f, inputs, {x}).second); });
}

/// The block's other parts alone, forward.
void part(benchmark::State& state, const std::function<mx::array(const Block&)>& run) {
  const Block block{Compute::f32};
  measure(state, 0, {}, [&] { run(block).eval(); });
}

void part_gradient(benchmark::State& state,
                   const std::function<mx::array(const std::vector<mx::array>&)>& run,
                   const std::vector<mx::array>& inputs) {
  const auto f = [&](const std::vector<mx::array>& a) { return std::vector{run(a)}; };
  const mx::array dy = random_array(run(inputs).shape());
  measure(state, 0, {}, [&] { mx::eval(mx::vjp(f, inputs, {dy}).second); });
}

void shapes(benchmark::internal::Benchmark* b) {
  for (const auto& [in, out] : {std::pair{576, 576},
                                {576, 192},
                                {576, 1536},
                                {1536, 576},
                                {576, 49152},
                                {2048, 2048},
                                {2048, 8192},
                                {8192, 2048}}) {
    b->Args({in, out});
  }
  b->UseManualTime()->MinTime(0.2)->Unit(benchmark::kMillisecond);
}

void timed(benchmark::internal::Benchmark* b) {
  b->UseManualTime()->MinTime(0.3)->Unit(benchmark::kMillisecond);
}

void add_parts() {
  const mx::array hidden = random_array({1, kRows, 576}), wide = random_array({1, kRows, 1536});
  const mx::array q = random_array({1, 9, kRows, 64}), k = random_array({1, 3, kRows, 64});
  const mx::array logits = random_array({kRows, 49152}), labels = mx::zeros({kRows}, mx::int32);
  const auto add = [](const char* name, auto run, const std::vector<mx::array>& inputs) {
    timed(benchmark::RegisterBenchmark((std::string(name) + "/forward").c_str(), [=](benchmark::State& s) {
      part(s, [&](const Block&) { return run(inputs); });
    }));
    timed(benchmark::RegisterBenchmark((std::string(name) + "/gradients").c_str(),
                                       [=](benchmark::State& s) { part_gradient(s, run, inputs); }));
  };
  using In = std::vector<mx::array>;
  add("attention", [](const In& a) { return attention(a[0], a[1], a[2], 0.125f); }, {q, k, k});
  add("rms_norm", [](const In& a) { return rms_norm(a[0], a[1], 1e-5f); }, {hidden, mx::ones({576})});
  add("swiglu", [](const In& a) { return swiglu(a[0], a[1]); }, {wide, wide});
  add("rope", [](const In& a) { return rope(a[0], mx::ones({32}), 0); }, {q});
  add("add", [](const In& a) { return mx::add(a[0], a[1]); }, {hidden, hidden});
  add("transpose",
      [](const In& a) {
        return mx::reshape(mx::transpose(a[0], {0, 2, 1, 3}), {1, kRows, 576});
      },
      {q});
  add("label_log_probabilities", [=](const In& a) { return label_log_probabilities(a[0], labels); },
      {logits});
}

BENCHMARK_CAPTURE(peak, f32, Compute::f32)->UseManualTime()->Iterations(1);
BENCHMARK_CAPTURE(peak, bf16, Compute::bf16)->UseManualTime()->Iterations(1);
BENCHMARK_CAPTURE(linear_forward, f32, Compute::f32)->Apply(shapes);
BENCHMARK_CAPTURE(linear_forward, bf16, Compute::bf16)->Apply(shapes);
BENCHMARK_CAPTURE(linear_gradients, f32, Compute::f32)->Apply(shapes);
BENCHMARK_CAPTURE(linear_gradients, bf16, Compute::bf16)->Apply(shapes);
BENCHMARK(linear_decode)
    ->Args({576, 1536})
    ->Args({2048, 8192})
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(quantized_decode)->DenseRange(2, 6)->Arg(8)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(block_forward, f32, Compute::f32)->Apply(timed);
BENCHMARK_CAPTURE(block_forward, bf16, Compute::bf16)->Apply(timed);
BENCHMARK_CAPTURE(block_gradients, f32, Compute::f32)->Apply(timed);
BENCHMARK_CAPTURE(block_gradients, bf16, Compute::bf16)->Apply(timed);

}  // namespace
}  // namespace optiq::kernels

int main(int argc, char** argv) {
  optiq::kernels::add_parts();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
