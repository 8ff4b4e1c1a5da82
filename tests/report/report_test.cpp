#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <limits>

#include "optiq/base/file.h"
#include "optiq/report/html.h"
#include "optiq/report/markup.h"
#include "optiq/report/svg.h"
#include "optiq/report/table.h"
#include "support/contains.h"
#include "support/sensitivity.h"
#include "support/temporary_folder.h"

namespace optiq::report {
namespace {

constexpr std::string_view kHostile = "<script>alert('x')</script> & \"\x01\xff";

/// What Python's XML parser says of `text`; empty where it is well-formed.
std::string xml_error(const std::string& text) {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "page.xml";
  EXPECT_TRUE(write_file_atomically(path, text));
  const std::string command = fmt::format(
      "python3 -c 'import sys, xml.dom.minidom as m; m.parse(sys.argv[1])' {} 2>&1", path.string());
  std::string output;
  std::array<char, 256> buffer{};
  FILE* pipe = ::popen(command.c_str(), "r");
  while (std::fgets(buffer.data(), static_cast<int>(buffer.size()), pipe) != nullptr) output += buffer.data();
  const int status = ::pclose(pipe);
  return status == 0 ? "" : output + " (failed)";
}

std::size_t count(const std::string& text, std::string_view part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size()))
    ++found;
  return found;
}

ReportInput example(std::string_view name) {
  Random random(1);
  ReportInput input;
  input.sensitivity = test::random_sensitivity(random, 6);
  input.sensitivity->model.name = name;
  input.sensitivity->calibration.source = name;
  const auto& sensitivity = *input.sensitivity;
  input.plan = plan::make_plan(sensitivity, plan::bits_per_weight_budget(sensitivity, 5).value()).value();
  input.frontier = plan::frontier_points(sensitivity).value();
  input.uniform = plan::uniform_points(sensitivity).value();
  input.baseline = plan::uniform_plan_at_least(sensitivity, input.plan.bytes).value();
  input.measured = {
      {"reference", 2000000, 16, MeanError{20.5, 0.25}, std::nullopt, std::nullopt, false, {}, {}},
      {std::string(name),
       600000,
       5,
       MeanError{21.25, 0.25},
       MeanError{0.0123, 0.0004},
       std::nullopt,
       false,
       {},
       {}}};
  return input;
}

TEST(Markup, EscapesEverythingThatMarkupReads) {
  EXPECT_EQ(escape_markup("a<b>&\"'"), "a&lt;b&gt;&amp;&quot;&#39;");
  EXPECT_EQ(escape_markup(std::string_view("\0\x1b\xc3\xa9", 4)), "\\x00\\x1b\\xc3\\xa9");
}

TEST(Table, AlignsByCodePoints) {
  EXPECT_EQ(format_table({{"name", Align::left}, {"KL", Align::right}},
                         {{"é", "0.1 ± 0.2"}, {"longer", "1"}, {"x"}}),
            "name           KL\n"
            "------  ---------\n"
            "é       0.1 ± 0.2\n"
            "longer          1\n"
            "x\n");
}

TEST(Numbers, ShowTheDigitsTheErrorSupports) {
  EXPECT_EQ(format_with_error(3.14159, 0.042), "3.142 ± 0.042");
  EXPECT_EQ(format_with_error(0.0123456, 0.00021), "0.01235 ± 0.00021");
  EXPECT_EQ(format_with_error(1234.5, 27), "1234 ± 27");
  EXPECT_EQ(format_with_error(0.123456, 0), "0.1235");
}

TEST(Plots, AreWellFormedAndShowEveryPoint) {
  const ReportInput input = example("tiny");
  const std::string plot = frontier_plot(input.frontier, input.uniform, input.frontier[3]);
  EXPECT_EQ(xml_error(plot), "");
  for (const plan::Point& point : input.uniform)
    EXPECT_TRUE(test::contains(plot, fmt::format("uniform {}: {:.3f}", point.label, point.bits_per_weight)));
  EXPECT_EQ(count(plot, "class=\"chosen\""), 2u);  // the point and the legend

  const std::string map = bits_map(input.plan);
  EXPECT_EQ(xml_error(map), "");
  for (const plan::PlannedModule& module : input.plan.modules)
    EXPECT_TRUE(test::contains(map, fmt::format("{}: {}", module.name, quant::to_string(module.format))));

  const std::string bars = sensitivity_plot(*input.sensitivity, {4, 64});
  EXPECT_EQ(xml_error(bars), "");
  double third = 0;
  for (const auto& module : input.sensitivity->modules) {
    for (const auto& option : module.options)
      if (module.layer == 2 && option.format == quant::Format{4, 64}) third += option.cost;
  }
  EXPECT_TRUE(test::contains(bars, fmt::format("layer 2: {:.3g}", third)));
}

TEST(Plots, SurviveWhatCannotBePlotted) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<plan::Point> bad{
      {"a", 1, 4, 0, 0}, {"b", 1, 4, 0, -1}, {"c", 1, nan, 0, 1}, {"d", 1, 4, 0, nan}};
  for (const auto& points : {std::vector<plan::Point>{}, bad}) {
    const std::string plot = frontier_plot(points, points, std::nullopt);
    EXPECT_EQ(xml_error(plot), "");
    EXPECT_EQ(plot.find("nan"), std::string::npos);
    EXPECT_EQ(plot.find("inf"), std::string::npos);
  }
}

TEST(HtmlReport, HoldsTheNumbersAndNothingFromElsewhere) {
  const ReportInput input = example("tiny");
  const std::string page = html_report(input);
  EXPECT_EQ(xml_error(page), "");
  for (const std::string& expected :
       {std::string("21.25 ± 0.25"), std::string("0.01230 ± 0.00040"), fmt::format("{}", input.plan.bytes),
        fmt::format("{:.3f}", input.plan.bits_per_weight), fmt::format("{}", input.baseline->bytes),
        format_with_error(input.plan.predicted_kl, input.plan.predicted_kl_standard_error),
        std::string("sum of costs "), std::string("prefers-color-scheme: dark")})
    EXPECT_TRUE(test::contains(page, expected));
  for (const char* foreign : {"<script", "src=", "href=", "url(", "@import"})
    EXPECT_EQ(page.find(foreign), std::string::npos) << foreign;
}

TEST(HtmlReport, ShowsDivergenceAndPairedDifferencesWithTheirErrors) {
  ReportInput input = example("tiny");
  EXPECT_EQ(html_report(input).find("At equal bytes"), std::string::npos);
  input.measured[1].is_ours = true;
  Quality baseline = input.measured[1];
  baseline.name = "uniform <4x64>";
  baseline.is_ours = false;
  baseline.kl = MeanError{0.02, 0.0006};
  baseline.kl_difference = MeanError{-0.0077, 0.00031};
  baseline.rival = "tiny";
  input.measured.push_back(baseline);
  const std::string page = html_report(input);
  EXPECT_EQ(xml_error(page), "");
  for (const char* expected :
       {"At equal bytes", "-0.00770 ± 0.00031", "0.02000 ± 0.00060", "uniform &lt;4x64&gt;"})
    EXPECT_TRUE(test::contains(page, expected));
  EXPECT_EQ(count(kl_plot(input.measured), "class=\"whisker\""), 2u * 3);  // the reference has no KL
  EXPECT_EQ(count(kl_plot(input.measured), "class=\"bar2\""), 1u);
  EXPECT_EQ(count(difference_plot(input.measured), "class=\"whisker\""), 3u);
  EXPECT_EQ(xml_error(difference_plot({})), "");
  input.measured[1].kl = MeanError{std::numeric_limits<double>::quiet_NaN(), 0};
  EXPECT_EQ(kl_plot(input.measured).find("nan"), std::string::npos);
}

TEST(HtmlReport, EscapesNamesFromFiles) {
  const std::string page = html_report(example(kHostile));
  EXPECT_EQ(xml_error(page), "");
  EXPECT_EQ(page.find("<script"), std::string::npos);
  EXPECT_TRUE(test::contains(page, "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;\\x01\\xff"));
}

TEST(HtmlReport, LeavesOutWhatThereIsNot) {
  ReportInput input = example("tiny");
  input.sensitivity.reset();
  input.baseline.reset();
  input.measured.clear();
  input.frontier.clear();
  const std::string page = html_report(input);
  EXPECT_EQ(xml_error(page), "");
  for (const char* absent : {"Measured quality", "Against a uniform", "Size and predicted", "is sensitive"})
    EXPECT_EQ(page.find(absent), std::string::npos) << absent;
  EXPECT_EQ(count(page, "<svg"), 1u);
}

}  // namespace
}  // namespace optiq::report
