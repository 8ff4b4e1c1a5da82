// One plan seen by another profile, and how far two plans or profiles are apart.
#pragma once

#include "optiq/base/statistics.h"
#include "optiq/plan/plan.h"
#include "optiq/profile/sensitivity.h"

namespace optiq::plan {

/// Predicted KL of `plan`'s modules by the costs of `sensitivity`, without its KV cache's, in nats a token,
/// as make_plan predicts (fisher: from the projections, with all interactions). bad_input naming the module
/// where the two are not of one model, or a format was not measured.
Result<MeanError> predict(const profile::Sensitivity& sensitivity, const Plan& plan);

/// How much of `a` has another format in `b`.
struct Difference {
  double modules = 0;  ///< share of the modules, 0 to 1
  double bytes = 0;    ///< share of the modules' bytes in `a`, 0 to 1
};
/// bad_input where the modules are not the same.
Result<Difference> difference(const Plan& a, const Plan& b);

/// Spearman's rank correlation of the costs of all options that both profiles measured.
double cost_correlation(const profile::Sensitivity& a, const profile::Sensitivity& b);

}  // namespace optiq::plan
