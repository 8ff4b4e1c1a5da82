// Models that were planned and measured, as the verbs show them.
#pragma once

#include <filesystem>

#include "optiq/base/json.h"
#include "optiq/compare/compare.h"
#include "optiq/plan/planner.h"
#include "optiq/report/html.h"

namespace optiq::apps {

report::Quality report_row(const compare::Candidate& candidate, const evaluate::Quality& quality);

/// For people: one line a model.
std::string quality_table(const std::vector<report::Quality>& rows);

/// name, bytes, bits_per_weight, predicted_kl (of a plan), and what quality_json says.
Json candidate_json(const compare::Candidate& candidate, const evaluate::Quality& quality);

/// The HTML report of `plan` and of what was measured; `baseline` is drawn beside it where there is one.
Status write_quality_report(const std::filesystem::path& path, const profile::Sensitivity& sensitivity,
                            const plan::Rules& rules, const plan::Plan& plan,
                            const std::optional<plan::Plan>& baseline,
                            const std::vector<report::Quality>& rows);

/// Where something may be written for a while beside `out`: hidden, so that no folder of the user's is in its
/// place.
std::filesystem::path hidden_folder_beside(const std::filesystem::path& out);

}  // namespace optiq::apps
