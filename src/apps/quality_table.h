// Models that were planned and measured, as the verbs show them.
#pragma once

#include <filesystem>

#include "optiq/base/json.h"
#include "optiq/evaluate/evaluate.h"
#include "optiq/report/html.h"

namespace optiq::apps {

report::Quality report_row(const std::string& name, const plan::Plan& plan, const evaluate::Quality& quality);

/// For people: one line a model.
std::string quality_table(const std::vector<report::Quality>& rows);

/// name, bytes, bits_per_weight, predicted_kl, and what quality_json says.
Json candidate_json(const std::string& name, const plan::Plan& plan, const evaluate::Quality& quality);

/// Where a baseline may be written beside `out`: hidden, so that no folder of the user's is in its place.
std::filesystem::path hidden_folder_beside(const std::filesystem::path& out);

}  // namespace optiq::apps
