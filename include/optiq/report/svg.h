// Plots as self-contained SVG elements: valid XML, light and dark, every mark with a tooltip, colours never
// the only carrier of a value. All text is escaped.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "optiq/plan/planner.h"
#include "optiq/profile/sensitivity.h"
#include "optiq/report/quality.h"

namespace optiq::report {

/// Predicted KL (logarithmic) over bits per weight: the frontier as a line, uniform plans as labelled points,
/// the chosen plan as a marked one. Points whose predicted KL is not positive are left out.
std::string frontier_plot(const std::vector<plan::Point>& frontier, const std::vector<plan::Point>& uniform,
                          const std::optional<plan::Point>& chosen);

/// Bits of every module: a column for each layer, a row for each kind of module; embeddings and head in rows
/// of their own.
std::string bits_map(const plan::Plan& plan);

/// Σ cost of each layer's modules at `format` as bars; embeddings and head as bars of their own. Modules
/// that were not measured at it count nothing.
std::string sensitivity_plot(const profile::Sensitivity& sensitivity, quant::Format format);

/// KL to the reference of every model that has one, as bars with their standard errors; ours in another
/// colour.
std::string kl_plot(const std::vector<Quality>& measured);

/// KL of ours minus the baseline's, of every baseline that has one, with its standard error: left of zero,
/// ours is closer to the reference.
std::string difference_plot(const std::vector<Quality>& measured);

}  // namespace optiq::report
