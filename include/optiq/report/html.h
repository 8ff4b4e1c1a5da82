// report.html: one file that shows what a plan is, what it was expected to cost, and what it was measured to
// cost.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "optiq/base/statistics.h"
#include "optiq/plan/planner.h"
#include "optiq/profile/sensitivity.h"
#include "optiq/report/quality.h"

namespace optiq::report {

struct ReportInput {
  plan::Plan plan;
  std::optional<profile::Sensitivity> sensitivity;  ///< draws the sensitivity plot
  std::vector<plan::Point> frontier;
  std::vector<plan::Point> uniform;
  std::optional<plan::Plan> baseline;  ///< compared with by size and predicted KL
  std::vector<Quality> measured;       ///< reference, plan and baselines, in the order shown
};

/// A whole HTML document: no script, nothing loaded from elsewhere, light and dark by the reader's setting,
/// well-formed XML.
std::string html_report(const ReportInput& input);

/// "3.21 ± 0.04", as many digits as the error supports (two of it); without an error four significant ones.
std::string format_with_error(double value, double standard_error);

}  // namespace optiq::report
