#include "optiq/compare/compare.h"

#include "optiq/profile/importance.h"
#include "optiq/report/table.h"
#include "quality_options.h"
#include "quality_table.h"

namespace optiq::apps {
namespace {

namespace fs = std::filesystem;

struct Arguments {
  std::string model, out = "report.html";
  QualityArguments quality;
  ProfileArguments profile;
  PlanArguments plan;
};

struct Measured {
  std::vector<evaluate::Quality> ours, baselines;  ///< parallel to the field's
};

Result<Measured> measure_all(const Arguments& args, const compare::Field& field, const fs::path& activations,
                             const model::Model& model, const calibrate::TokenBatch& tokens,
                             Console& console) {
  Measured measured;
  const fs::path folder = hidden_folder_beside(args.out);
  const auto measure = [&](const compare::Candidate& candidate) {
    return compare::measure(candidate, model, activations, tokens, folder, console.progress());
  };
  for (const compare::Candidate& candidate : field.ours) {
    OPTIQ_TRY(measured.ours.emplace_back(), measure(candidate));
  }
  for (const compare::Baseline& baseline : field.baselines) {
    OPTIQ_TRY(measured.baselines.emplace_back(), measure(baseline.candidate));
  }
  return measured;
}

/// KL of ours minus the baseline's, window by window, for each baseline.
Result<std::vector<MeanError>> differences(const compare::Field& field, const Measured& measured) {
  std::vector<MeanError> all;
  for (std::size_t i = 0; i < field.baselines.size(); ++i) {
    const evaluate::Quality& ours = measured.ours[field.baselines[i].rival];
    OPTIQ_TRY(all.emplace_back(),
              compare::paired_difference(ours.window_kl, measured.baselines[i].window_kl));
  }
  return all;
}

std::vector<report::Quality> report_rows(const compare::Field& field, const Measured& measured,
                                         const std::vector<MeanError>& differences) {
  std::vector<report::Quality> rows;
  for (std::size_t i = 0; i < field.ours.size(); ++i) {
    rows.push_back(report_row(field.ours[i], measured.ours[i]));
    rows.back().is_ours = true;
  }
  for (std::size_t i = 0; i < field.baselines.size(); ++i) {
    rows.push_back(report_row(field.baselines[i].candidate, measured.baselines[i]));
    rows.back().kl_difference = differences[i];
    rows.back().rival = field.ours[field.baselines[i].rival].name;
  }
  return rows;
}

std::string difference_table(const compare::Field& field, const std::vector<MeanError>& differences) {
  std::vector<std::vector<std::string>> cells;
  for (std::size_t i = 0; i < differences.size(); ++i) {
    const compare::Baseline& baseline = field.baselines[i];
    cells.push_back({baseline.candidate.name, field.ours[baseline.rival].name,
                     report::format_with_error(differences[i].mean, differences[i].standard_error)});
  }
  return report::format_table(
      {{"baseline"}, {"ours of its size"}, {"KL, ours - baseline", report::Align::right}}, cells);
}

Json to_json(const compare::Field& field, const Measured& measured,
             const std::vector<MeanError>& differences) {
  Json json{{"ours", Json::array()}, {"baselines", Json::array()}};
  for (std::size_t i = 0; i < field.ours.size(); ++i)
    json["ours"].push_back(candidate_json(field.ours[i], measured.ours[i]));
  for (std::size_t i = 0; i < field.baselines.size(); ++i) {
    const compare::Baseline& baseline = field.baselines[i];
    Json row = candidate_json(baseline.candidate, measured.baselines[i]);
    row["rival"] = field.ours[baseline.rival].name;
    row["kl_difference"] = differences[i].mean;
    row["kl_difference_stderr"] = differences[i].standard_error;
    json["baselines"].push_back(std::move(row));
  }
  return json;
}

Status run_compare(const Arguments& args, Console& console) {
  OPTIQ_TRY(const auto model, model::Model::open(args.model));
  OPTIQ_TRY(const auto tokenizer, io::Tokenizer::open(args.model));
  const fs::path file = profile_file(args.quality, args.out);
  OPTIQ_TRY(const auto rules, rules_of(args.plan));
  OPTIQ_TRY(const auto known, known_profile(args.quality, args.profile, file, model));
  OPTIQ_TRY(const auto texts, unseen_texts(args.quality, args.profile, known, model, tokenizer, console));
  OPTIQ_TRY(const auto sensitivity, known
                                        ? Result<profile::Sensitivity>(*known)
                                        : measure_profile(args.profile, file, model, tokenizer, {}, console));
  OPTIQ_TRY(const auto budget, budget_of(args.plan, sensitivity));
  OPTIQ_TRY(const auto field, compare::make_field(sensitivity, budget, rules));
  OPTIQ_TRY(const auto measured,
            measure_all(args, field, profile::importance_path(file), model, texts.measured, console));
  OPTIQ_TRY(const auto paired, differences(field, measured));
  const auto rows = report_rows(field, measured, paired);
  OPTIQ_CHECK(write_quality_report(args.out, sensitivity, rules, *field.ours.front().plan,
                                   field.baselines.front().candidate.plan, rows));

  console.end_progress();
  console.print(quality_table(rows));
  console.print(difference_table(field, paired));
  Json json = to_json(field, measured, paired);
  json["out"] = args.out;
  json["sensitivity"] = file.string();
  console.print_json(json);
  return {};
}

}  // namespace

void add_compare(VerbTable& verbs) {
  auto args = std::make_shared<Arguments>();
  CLI::App* verb = verbs.add("compare", "Measure plans beside the usual ways to quantize, at equal bytes");
  verb->add_option("model", args->model, "Full-precision model folder")->required();
  verb->add_option("-o,--out", args->out, "Report to write (HTML)")->capture_default_str();
  add_quality_options(verb, args->quality);
  add_profile_options(verb, args->profile);
  add_plan_options(verb, args->plan, {});
  verbs.on_chosen(verb, [args](Console& console) { return run_compare(*args, console); });
}

}  // namespace optiq::apps
