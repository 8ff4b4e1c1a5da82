#include "optiq/base/units.h"
#include "optiq/compare/compare.h"
#include "optiq/encode/encode.h"
#include "optiq/evaluate/evaluate.h"
#include "optiq/report/html.h"
#include "optiq/tune/distill.h"
#include "optiq/tune/effort.h"
#include "optiq/tune/refine.h"
#include "optiq/tune/round.h"
#include "quality_json.h"
#include "quality_options.h"
#include "quality_table.h"

namespace optiq::apps {
namespace {

namespace fs = std::filesystem;

struct Arguments {
  std::string model, out, effort = "balanced";
  int learned_bits = 0;
  QualityArguments quality;
  ProfileArguments profile;
  PlanArguments plan;
};

/// A model that was written, and what was measured of it.
struct Candidate {
  std::string name;
  plan::Plan plan;
  evaluate::Quality quality;
};

Result<evaluate::Quality> measure(const fs::path& folder, const model::Model& reference,
                                  const calibrate::TokenBatch& batch, Console& console) {
  OPTIQ_TRY(const auto model, model::Model::open(folder));
  return evaluate::evaluate_text(model, &reference, batch.ids, {.context = batch.tokens}, console.progress());
}

/// How long it will take from here.
Status say_time(const Arguments& args, const tune::Recipe& recipe, const model::Model& model,
                Console& console) {
  OPTIQ_TRY(const auto options, profile_options(args.profile));
  OPTIQ_TRY(const double seconds, tune::estimate_seconds(model, recipe, args.profile.source.tokens,
                                                         options.label_draws, options.formats.size()));
  console.print(fmt::format("effort {}: about {}\n", args.effort, format_duration(seconds)));
  return {};
}

/// The plan carried out in OUT, corrected and tuned as the recipe says.
Result<tune::RefineResult> carry_out(const Arguments& args, const tune::Recipe& recipe, const fs::path& file,
                                     const profile::Sensitivity& sensitivity, const plan::Rules& rules,
                                     const model::Model& model, const io::Tokenizer& tokenizer,
                                     Console& console) {
  OPTIQ_TRY(const auto budget, budget_of(args.plan, sensitivity));
  OPTIQ_TRY(const auto held_out, unseen_tokens(args.quality, args.profile, "", 2, model, tokenizer, console));
  OPTIQ_TRY(auto guards, plan::guard_plans(sensitivity, budget, rules));
  const fs::path activations = profile::importance_path(file);
  OPTIQ_TRY(auto result,
            tune::refine(model, sensitivity, budget, rules, activations, std::move(guards), held_out,
                         args.out, {.rounds = recipe.refine_rounds}, console.progress()));
  if (recipe.learned_bits == 0 && recipe.distill_epochs == 0) return result;
  OPTIQ_TRY(const auto tokens, profile::read_calibration_tokens(activations));
  if (recipe.learned_bits > 0) {
    OPTIQ_CHECK(tune::learn_rounding(args.out, model, tokens, {.most_bits = recipe.learned_bits},
                                     console.progress()));
  }
  if (recipe.distill_epochs > 0) {
    OPTIQ_CHECK(
        tune::distill(args.out, model, tokens, {.epochs = recipe.distill_epochs}, console.progress()));
  }
  return result;
}

/// The uniform plan by rounding to nearest.
Result<Candidate> measure_baseline(const Arguments& args, plan::Plan plan, const model::Model& reference,
                                   const calibrate::TokenBatch& batch, Console& console) {
  for (auto& module : plan.modules) module.encoder = quant::Encoder::rtn;
  const std::string format = quant::to_string(plan.modules.front().format);
  const fs::path folder = hidden_folder_beside(args.out);
  OPTIQ_TRY(auto quality, compare::measure(plan, reference, {}, batch, folder, console.progress()));
  return Candidate{"uniform " + format, std::move(plan), std::move(quality)};
}

Json candidates_json(const tune::RefineResult& refined) {
  Json json = Json::array();
  for (const tune::Candidate& candidate : refined.candidates)
    json.push_back(
        {{"name", candidate.name}, {"bytes", candidate.plan.bytes}, {"held_out_kl", candidate.divergence}});
  return json;
}

Status quantize(const Arguments& args, const tune::Recipe& recipe, Console& console) {
  OPTIQ_CHECK(encode::check_output(args.out));
  OPTIQ_TRY(const auto model, model::Model::open(args.model));
  OPTIQ_TRY(const auto tokenizer, io::Tokenizer::open(args.model));
  const fs::path file = profile_file(args.quality, args.out);
  OPTIQ_TRY(const auto rules, rules_of(args.plan));
  OPTIQ_TRY(const auto sensitivity,
            sensitivity_of(args.quality, args.profile, file, model, tokenizer, console,
                           [&] { return say_time(args, recipe, model, console); }));
  OPTIQ_TRY(const auto refined, carry_out(args, recipe, file, sensitivity, rules, model, tokenizer, console));
  Candidate ours{"optiq", refined.candidates[refined.best].plan, {}};
  OPTIQ_CHECK(encode::verify_checkpoint(args.out));

  OPTIQ_TRY(const auto batch,
            unseen_tokens(args.quality, args.profile, args.quality.text, 1, model, tokenizer, console));
  OPTIQ_TRY(ours.quality, measure(args.out, model, batch, console));
  std::vector<report::Quality> rows{report_row(ours.name, ours.plan, ours.quality)};
  std::optional<Candidate> baseline;
  if (auto uniform = plan::uniform_plan_at_least(sensitivity, ours.plan.bytes)) {
    OPTIQ_TRY(baseline, measure_baseline(args, std::move(*uniform), model, batch, console));
    rows.push_back(report_row(baseline->name, baseline->plan, baseline->quality));
  }
  OPTIQ_CHECK(write_quality_report(fs::path(args.out) / "report.html", sensitivity, rules, ours.plan,
                                   baseline ? std::optional(baseline->plan) : std::nullopt, rows));

  console.end_progress();
  console.print(quality_table(rows));
  console.print(latency_line(ours.plan));
  console.print(fmt::format("predicted KL {:.5f} ± {:.5f}; report: {}/report.html\n", ours.plan.predicted_kl,
                            ours.plan.predicted_kl_standard_error, args.out));
  Json json = plan_summary(ours.plan);
  json.update(quality_json(ours.quality));
  json["out"] = args.out;
  json["sensitivity"] = file.string();
  json["candidates"] = candidates_json(refined);
  if (baseline) json["baseline"] = candidate_json(baseline->name, baseline->plan, baseline->quality);
  console.print_json(json);
  return {};
}

}  // namespace

void add_quantize(VerbTable& verbs) {
  auto args = std::make_shared<Arguments>();
  CLI::App* verb = verbs.add("quantize", "Profile, plan, encode, verify and measure in one go");
  verb->add_option("model", args->model, "Full-precision model folder")->required();
  verb->add_option("out", args->out, "Folder to write")->required();
  add_quality_options(verb, args->quality);
  verb->add_option("--effort", args->effort,
                   "fast, balanced (gptq, the plan corrected by what it costs) or best (rounding, scales and "
                   "biases trained too)")
      ->check(CLI::IsMember({"fast", "balanced", "best"}))
      ->capture_default_str();
  verb->add_option("--learned-bits", args->learned_bits,
                   "Learn the rounding of modules of at most so many bits, 0 for none (best: 3, otherwise 0)")
      ->check(CLI::Range(0, 8));
  add_profile_options(verb, args->profile);
  add_plan_options(verb, args->plan, false);
  verbs.on_chosen(verb, [args, verb](Console& console) -> Status {
    OPTIQ_TRY(const auto effort, tune::parse_effort(args->effort));
    tune::Recipe recipe = tune::recipe_of(effort);
    // What was asked for by name counts more than the recipe.
    if (verb->count("--encoder") == 0) args->profile.encoder = quant::encoder_name(recipe.encoder);
    if (verb->count("--learned-bits") > 0) recipe.learned_bits = args->learned_bits;
    if (verb->count("--sequences") == 0) args->profile.source.sequences = recipe.sequences;
    OPTIQ_TRY(recipe.encoder, quant::parse_encoder(args->profile.encoder));
    recipe.sequences = args->profile.source.sequences;
    return quantize(*args, recipe, console);
  });
}

}  // namespace optiq::apps
