#include "optiq/report/html.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "optiq/base/units.h"
#include "optiq/report/markup.h"
#include "optiq/report/svg.h"

namespace optiq::report {
namespace {

constexpr std::string_view kHead = R"(<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
<style>
:root { --ink: #14181f; --soft: #5b6472; --paper: #ffffff; --card: #f5f7fa; --line: #dfe4ec; --mark: #d9480f; }
@media (prefers-color-scheme: dark) {
:root { --ink: #f2f5f9; --soft: #a4adba; --paper: #14181f; --card: #1d232c; --line: #303845; --mark: #ff8a4c; }
}
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 50rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
p.lead, figcaption { color: var(--soft); margin: .25rem 0 1rem; }
section { overflow-x: auto; }
ul.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .75rem; padding: 0;
  margin: 1.5rem 0 0; list-style: none; }
ul.figures li { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem; }
ul.figures b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
ul.figures span { color: var(--soft); font-size: .85rem; }
figure { margin: 0; overflow-x: auto; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .4rem .6rem; border-bottom: 1px solid var(--line); }
th, td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 7rem; }
th { color: var(--soft); font-weight: 600; }
details summary { cursor: pointer; color: var(--soft); }
</style>
)";

/// A table of cells that are markup already.
std::string html_table(const std::vector<std::string>& titles,
                       const std::vector<std::vector<std::string>>& rows) {
  std::string table = "<table>\n<thead><tr>";
  for (const std::string& title : titles) table += "<th scope=\"col\">" + title + "</th>";
  table += "</tr></thead>\n<tbody>\n";
  for (const auto& row : rows) {
    table += "<tr>";
    for (const std::string& cell : row) table += "<td>" + cell + "</td>";
    table += "</tr>\n";
  }
  return table + "</tbody>\n</table>\n";
}

std::string section(std::string_view title, const std::string& content) {
  return fmt::format("<section>\n<h2>{}</h2>\n{}</section>\n", title, content);
}

std::string figure(const std::string& svg, std::string_view caption) {
  return fmt::format("<figure>\n{}<figcaption>{}</figcaption>\n</figure>\n", svg, caption);
}

std::string figures(const plan::Plan& plan) {
  const auto item = [](const std::string& value, std::string_view what) {
    return fmt::format("<li><b>{}</b><span>{}</span></li>\n", value, what);
  };
  std::string list = "<ul class=\"figures\">\n";
  list += item(format_bytes(plan.bytes), fmt::format("all weight files, {} bytes", plan.bytes));
  list += item(fmt::format("{:.3f}", plan.bits_per_weight), "bits per weight, everything included");
  list += item(format_with_error(plan.predicted_kl, plan.predicted_kl_standard_error),
               "predicted KL, nats a token");
  if (plan.memory) {
    list +=
        item(format_bytes(plan.memory->total()),
             fmt::format("memory: weights {}, cache of {} tokens {}, scratch {}",
                         format_bytes(plan.memory->weight_bytes), plan.memory->context_tokens,
                         format_bytes(plan.memory->cache_bytes), format_bytes(plan.memory->scratch_bytes)));
  }
  return list + "</ul>\n";
}

std::string header(const plan::Plan& plan) {
  std::string lead = fmt::format("{}, {:.3g} million parameters", escape_markup(plan.model.family),
                                 static_cast<double>(plan.model.parameters) / 1e6);
  if (plan.budget_bytes > 0) {
    lead += fmt::format("; budget {} ({:.2f} % used); {}", format_bytes(plan.budget_bytes),
                        100 * static_cast<double>(plan.bytes) / static_cast<double>(plan.budget_bytes),
                        plan.gap == 0
                            ? "sum of costs proven minimal"
                            : fmt::format("sum of costs within {:.2g} % of the minimum", 100 * plan.gap));
  }
  return fmt::format("<header>\n<h1>{}</h1>\n<p class=\"lead\">{}.</p>\n{}</header>\n",
                     escape_markup(plan.model.name), lead, figures(plan));
}

std::string optional_figure(const std::optional<MeanError>& figure) {
  return figure ? format_with_error(figure->mean, figure->standard_error) : "-";
}

std::string measured_table(const std::vector<Quality>& measured) {
  std::vector<std::vector<std::string>> rows;
  for (const Quality& quality : measured) {
    rows.push_back({escape_markup(quality.name), format_bytes(quality.bytes),
                    fmt::format("{:.3f}", quality.bits_per_weight), optional_figure(quality.perplexity),
                    optional_figure(quality.kl), optional_figure(quality.top1_agreement)});
  }
  return html_table({"model", "size", "bits per weight", "perplexity", "KL", "top-1 agreement"}, rows);
}

bool is_compared(const Quality& quality) {
  return quality.kl_difference.has_value();
}

std::string difference_table(const std::vector<Quality>& measured) {
  std::vector<std::vector<std::string>> rows;
  for (const Quality& quality : measured) {
    if (!is_compared(quality)) continue;
    rows.push_back(
        {escape_markup(quality.name), escape_markup(quality.rival), optional_figure(quality.kl_difference)});
  }
  return html_table({"baseline", "ours of its size", "KL, ours - baseline"}, rows);
}

std::string measured_sections(const std::vector<Quality>& measured) {
  if (measured.empty()) return "";
  std::string content = measured_table(measured);
  if (std::ranges::any_of(measured, [](const Quality& quality) { return quality.kl.has_value(); })) {
    content += figure(kl_plot(measured),
                      "Lower is better. Whiskers are one standard error, over windows of the text.");
  }
  std::string sections = section("Measured quality", content);
  if (std::ranges::any_of(measured, is_compared)) {
    sections += section("At equal bytes", figure(difference_plot(measured),
                                                 "Left of zero, ours is closer to the reference. Each is "
                                                 "the mean of the differences in the same windows, whiskers "
                                                 "are its standard error.") +
                                              difference_table(measured));
  }
  return sections;
}

std::string baseline_table(const plan::Plan& plan, const plan::Plan& baseline) {
  const auto row = [](std::string name, const plan::Plan& p) {
    return std::vector<std::string>{std::move(name), fmt::format("{}", p.bytes),
                                    fmt::format("{:.3f}", p.bits_per_weight),
                                    format_with_error(p.predicted_kl, p.predicted_kl_standard_error)};
  };
  const std::string format =
      baseline.modules.empty() ? "" : quant::to_string(baseline.modules.front().format);
  return html_table({"plan", "bytes", "bits per weight", "predicted KL"},
                    {row("this plan", plan), row("uniform " + format, baseline)});
}

std::string format_counts(const plan::Plan& plan) {
  struct Sum {
    std::size_t modules = 0;
    std::uint64_t bytes = 0;
  };
  std::map<quant::Format, Sum> sums;
  for (const plan::PlannedModule& module : plan.modules) {
    ++sums[module.format].modules;
    sums[module.format].bytes += module.bytes;
  }
  std::vector<std::vector<std::string>> rows;
  for (const auto& [format, sum] : sums)
    rows.push_back({quant::to_string(format), fmt::format("{}", sum.modules), format_bytes(sum.bytes)});
  return html_table({"format (bits x group)", "modules", "bytes"}, rows);
}

std::string module_table(const plan::Plan& plan) {
  std::vector<std::vector<std::string>> rows;
  for (const plan::PlannedModule& module : plan.modules) {
    rows.push_back({escape_markup(module.name), quant::to_string(module.format),
                    std::string(quant::encoder_name(module.encoder)), fmt::format("{}", module.bytes),
                    fmt::format("{:.3g}", module.cost)});
  }
  return "<details>\n<summary>Every module</summary>\n" +
         html_table({"module", "format", "encoder", "bytes", "cost"}, rows) + "</details>\n";
}

plan::Point as_point(const plan::Plan& plan) {
  return {.label = "",
          .bytes = plan.bytes,
          .bits_per_weight = plan.bits_per_weight,
          .cost = 0,
          .predicted_kl = plan.predicted_kl};
}

std::string sensitivity_section(const profile::Sensitivity& sensitivity) {
  const auto formats = plan::measured_formats(sensitivity);
  if (formats.empty()) return "";
  // 4x64 is what most models are shipped in; without it, the middle of what was measured.
  const quant::Format usual{.bits = 4, .group_size = 64};
  const bool has_usual = std::find(formats.begin(), formats.end(), usual) != formats.end();
  const std::string caption = fmt::format(
      "Estimated by {} on {} sequences of {} tokens from {}; rank correlation of two halves {:.3f}.",
      profile::estimator_name(sensitivity.estimator), sensitivity.calibration.sequences,
      sensitivity.calibration.tokens, escape_markup(sensitivity.calibration.source),
      sensitivity.half_split_spearman);
  return section(
      "Where the model is sensitive",
      figure(sensitivity_plot(sensitivity, has_usual ? usual : formats[formats.size() / 2]), caption));
}

}  // namespace

std::string format_with_error(double value, double standard_error) {
  if (!(standard_error > 0) || !std::isfinite(standard_error)) return fmt::format("{:.4g}", value);
  const int decimals = std::clamp(1 - static_cast<int>(std::floor(std::log10(standard_error))), 0, 12);
  return fmt::format("{:.{}f} ± {:.{}f}", value, decimals, standard_error, decimals);
}

std::string html_report(const ReportInput& input) {
  const plan::Plan& plan = input.plan;
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n"
      "<title>optiq report: {}</title>\n{}</head>\n<body>\n<main>\n",
      escape_markup(plan.model.name), kHead);
  page += header(plan);
  page += measured_sections(input.measured);
  if (input.baseline) page += section("Against a uniform plan", baseline_table(plan, *input.baseline));
  if (!input.frontier.empty()) {
    page += section("Size and predicted quality",
                    figure(frontier_plot(input.frontier, input.uniform, as_point(plan)),
                           "Lower and further left is better. Predictions are not measurements."));
  }
  page += section("Bits of every module",
                  figure(bits_map(plan), "Point at a cell for its format and cost.") + format_counts(plan));
  if (input.sensitivity) page += sensitivity_section(*input.sensitivity);
  page += section("The whole plan", module_table(plan));
  return page + "</main>\n</body>\n</html>\n";
}

}  // namespace optiq::report
