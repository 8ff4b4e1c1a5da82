#include "quality_table.h"

#include <fmt/format.h>

#include "optiq/base/file.h"
#include "optiq/base/units.h"
#include "optiq/report/table.h"
#include "quality_json.h"

namespace optiq::apps {

report::Quality report_row(const compare::Candidate& candidate, const evaluate::Quality& quality) {
  report::Quality row;
  row.name = candidate.name;
  row.bytes = candidate.bytes;
  row.bits_per_weight = candidate.bits_per_weight;
  row.perplexity = MeanError{quality.perplexity, quality.perplexity_standard_error};
  if (quality.has_reference) {
    row.kl = quality.distance.kl;
    row.top1_agreement = quality.distance.top1_agreement;
  }
  return row;
}

std::string quality_table(const std::vector<report::Quality>& rows) {
  std::vector<std::vector<std::string>> cells;
  const auto show = [](const std::optional<MeanError>& value) {
    return value ? report::format_with_error(value->mean, value->standard_error) : std::string("-");
  };
  for (const report::Quality& row : rows) {
    cells.push_back({row.name, format_bytes(row.bytes), fmt::format("{:.3f}", row.bits_per_weight),
                     show(row.perplexity), show(row.kl), show(row.top1_agreement)});
  }
  using report::Align;
  return report::format_table({{"model"},
                               {"files", Align::right},
                               {"bits/weight", Align::right},
                               {"perplexity", Align::right},
                               {"KL to reference", Align::right},
                               {"top-1 agreement", Align::right}},
                              cells);
}

Json candidate_json(const compare::Candidate& candidate, const evaluate::Quality& quality) {
  Json json{
      {"name", candidate.name}, {"bytes", candidate.bytes}, {"bits_per_weight", candidate.bits_per_weight}};
  if (candidate.plan) json["predicted_kl"] = candidate.plan->predicted_kl;
  json.update(quality_json(quality));
  return json;
}

Status write_quality_report(const std::filesystem::path& path, const profile::Sensitivity& sensitivity,
                            const plan::Rules& rules, const plan::Plan& plan,
                            const std::optional<plan::Plan>& baseline,
                            const std::vector<report::Quality>& rows) {
  report::ReportInput input{plan, sensitivity, {}, {}, baseline, rows};
  OPTIQ_TRY(input.frontier, plan::frontier_points(sensitivity, rules));
  OPTIQ_TRY(input.uniform, plan::uniform_points(sensitivity));
  return write_file_atomically(path, report::html_report(input));
}

std::filesystem::path hidden_folder_beside(const std::filesystem::path& out) {
  const auto path = std::filesystem::absolute(out).lexically_normal();
  return path.parent_path() / fmt::format(".{}.baseline", path.filename().string());
}

}  // namespace optiq::apps
