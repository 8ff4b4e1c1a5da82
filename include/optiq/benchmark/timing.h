// Times with their spread.
#pragma once

#include <functional>
#include <vector>

namespace optiq::benchmark {

struct Spread {
  double median = 0, least = 0, most = 0;
};

/// Of at least one sample.
Spread spread_of(std::vector<double> samples);
/// Every figure of `spread` as work / figure: seconds into rates (least and most swap places).
Spread rate(double work, const Spread& spread);

double seconds_of(const std::function<void()>& work);
/// `repeats` runs of `work`.
Spread time_repeats(int repeats, const std::function<void()>& work);

}  // namespace optiq::benchmark
