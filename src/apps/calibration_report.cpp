#include "optiq/base/file.h"
#include "optiq/evaluate/mismatch.h"
#include "optiq/report/mismatch.h"
#include "profile_options.h"

namespace optiq::apps {
namespace {

namespace fs = std::filesystem;

struct Arguments {
  std::string model, folder = "calibration-report";
  std::vector<std::string> sets;
  std::int64_t eval_sequences = 16;
  bool plans_only = false;
  ProfileArguments profile;
  PlanArguments plan;
};

/// Files without their folders: what the tables call a set.
std::string short_name(std::vector<calibrate::Part> parts) {
  for (calibrate::Part& part : parts) part.name = fs::path(part.name).filename().string();
  return calibrate::describe(parts);
}

/// A profile that was named, or one made now in the report's folder.
Result<evaluate::CalibrationSet> read_or_profile(const Arguments& args, const std::string& text,
                                                 std::size_t number, const model::Model& model,
                                                 const io::Tokenizer& tokenizer, Console& console) {
  const fs::path file(text);
  if (file.extension() == ".json") {
    OPTIQ_TRY(auto sensitivity, profile::read_sensitivity(file));
    const std::string name = short_name(sensitivity.calibration.parts());
    return evaluate::CalibrationSet{name, std::move(sensitivity), file, {}};
  }
  calibrate::Source source = args.profile.source;
  source.parts = {calibrate::Part{text}};
  OPTIQ_TRY(const auto options, profile_options(args.profile));
  const fs::path out =
      fs::path(args.folder) / fmt::format("{}.{}.sensitivity.json", number, file.stem().string());
  if (auto known = profile::find_profile(out, model, source, options))
    return evaluate::CalibrationSet{short_name(source.parts), std::move(*known), out, {}};
  OPTIQ_TRY(auto sensitivity, profile::profile(model, tokenizer, source, options, out, console.progress()));
  return evaluate::CalibrationSet{short_name(source.parts), std::move(sensitivity), out, {}};
}

/// Text of the set's own source that its profile has not seen.
Result<calibrate::TokenBatch> held_out_text(const evaluate::CalibrationSet& set, std::int64_t sequences,
                                            const model::Model& model, const io::Tokenizer& tokenizer,
                                            Console& console) {
  const profile::Calibration& seen = set.sensitivity.calibration;
  const calibrate::Source source{
      .parts = seen.parts(), .sequences = seen.sequences, .tokens = seen.tokens, .seed = seen.seed};
  return calibrate::load(calibrate::held_out(source, sequences), model, tokenizer, console.progress());
}

Status calibration_report(const Arguments& args, Console& console) {
  OPTIQ_TRY(const auto model, model::Model::open(args.model));
  OPTIQ_TRY(const auto tokenizer, io::Tokenizer::open(args.model));
  OPTIQ_CHECK(make_folder(args.folder));
  std::vector<evaluate::CalibrationSet> sets;
  for (const std::string& text : args.sets) {
    OPTIQ_TRY(auto set, read_or_profile(args, text, sets.size() + 1, model, tokenizer, console));
    if (!args.plans_only) {
      OPTIQ_TRY(set.held_out, held_out_text(set, args.eval_sequences, model, tokenizer, console));
    }
    const auto is_taken = [&](const auto& other) { return other.name == set.name; };
    if (std::ranges::any_of(sets, is_taken)) set.name += fmt::format(" ({})", sets.size() + 1);
    sets.push_back(std::move(set));
  }
  OPTIQ_TRY(const auto budget, budget_of(args.plan, sets.front().sensitivity));
  OPTIQ_TRY(const auto rules, rules_of(args.plan));
  OPTIQ_TRY(auto mismatch, evaluate::predict_mismatch(sets, budget, rules));
  if (!args.plans_only) {
    const fs::path scratch = fs::path(args.folder) / ".encoded";
    OPTIQ_CHECK(evaluate::measure_mismatch(model, sets, scratch, mismatch, console.progress()));
  }
  console.end_progress();
  console.print(report::mismatch_text(mismatch));
  console.print_json(report::mismatch_json(mismatch));
  return {};
}

}  // namespace

void add_calibration_report(VerbTable& verbs) {
  auto args = std::make_shared<Arguments>();
  CLI::App* verb =
      verbs.add("calibration-report", "Measure what calibrating on one kind of text costs on another");
  verb->add_option("model", args->model, "Full-precision model folder")->required();
  verb->add_option(
          "sets", args->sets,
          "Two or more of: self; a .txt, .jsonl or .parquet file; a sensitivity.json that was measured "
          "before, of a mixture for one")
      ->required()
      ->expected(2, -1);
  verb->add_option("-o,--out", args->folder, "Folder for the profiles that are measured")
      ->capture_default_str();
  verb->add_option("--eval-sequences", args->eval_sequences, "Held-out sequences of each set")
      ->capture_default_str();
  verb->add_flag("--plans-only", args->plans_only, "Predict without encoding and measuring");
  add_measurement_options(verb, args->profile);
  add_plan_options(verb, args->plan, {});
  verbs.on_chosen(verb, [args](Console& console) { return calibration_report(*args, console); });
}

}  // namespace optiq::apps
