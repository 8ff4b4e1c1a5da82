// Means with standard errors, rank correlation, quantiles: the arithmetic behind every reported figure.
#pragma once

#include <span>
#include <vector>

namespace optiq {

struct MeanError {
  double mean = 0;
  double standard_error = 0;  ///< sample standard deviation / sqrt(n); 0 where n < 2.
};

/// Mean and standard error of independent samples, in double, two passes.
MeanError mean_with_error(std::span<const double> samples);

/// The q-quantile (0 ≤ q ≤ 1), linear between order statistics. Empty input gives 0.
double quantile(std::vector<double> samples, double q);

/// Spearman's rank correlation, ties by average rank. Sizes must match; fewer than two points give 0.
double spearman(std::span<const double> a, std::span<const double> b);

}  // namespace optiq
