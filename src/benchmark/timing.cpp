#include "optiq/benchmark/timing.h"

#include <algorithm>
#include <chrono>

#include "optiq/base/statistics.h"

namespace optiq::benchmark {

Spread spread_of(std::vector<double> samples) {
  const auto [least, most] = std::ranges::minmax(samples);
  return {quantile(std::move(samples), 0.5), least, most};
}

Spread rate(double work, const Spread& spread) {
  return {work / spread.median, work / spread.most, work / spread.least};
}

double seconds_of(const std::function<void()>& work) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Spread time_repeats(int repeats, const std::function<void()>& work) {
  std::vector<double> samples;
  for (int i = 0; i < repeats; ++i) samples.push_back(seconds_of(work));
  return spread_of(std::move(samples));
}

}  // namespace optiq::benchmark
