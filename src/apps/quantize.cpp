#include "memory_options.h"
#include "optiq/base/file.h"
#include "optiq/base/units.h"
#include "optiq/compare/choose_folds.h"
#include "optiq/encode/encode.h"
#include "optiq/evaluate/measure.h"
#include "optiq/profile/importance.h"
#include "optiq/report/html.h"
#include "optiq/tune/carry_out.h"
#include "optiq/tune/effort.h"
#include "quality_json.h"
#include "quality_options.h"
#include "quality_table.h"
#include "tune_options.h"

namespace optiq::apps {
namespace {

namespace fs = std::filesystem;

struct Arguments {
  std::string model, out, effort = "balanced", folds = "none";
  int learned_bits = 0;
  QualityArguments quality;
  ProfileArguments profile;
  PlanArguments plan;
  MemoryArguments memory;
};

/// The recipe as the library takes it.
tune::CarryOutOptions carry_out_options(const tune::Recipe& recipe) {
  tune::CarryOutOptions options;
  options.refine.rounds = recipe.refine_rounds;
  if (recipe.learned_bits > 0) options.round.emplace().most_bits = recipe.learned_bits;
  if (recipe.distill_epochs > 0) options.distill.emplace().epochs = recipe.distill_epochs;
  return options;
}

/// What a limit of memory rules out, asked before hours of work.
Status check_bounded(const Arguments& args, const tune::Recipe& recipe) {
  if (!args.memory.max_memory) return {};
  if (recipe.refine_rounds > 0 || recipe.distill_epochs > 0 || recipe.learned_bits > 0 ||
      args.folds != "none") {
    return fail(ErrorCode::usage,
                "--max-memory: expected --effort fast or balanced without --fold and --learned-bits: what "
                "changes models and corrects plans holds the whole model");
  }
  if (args.quality.text.empty() && args.profile.calibration.empty()) {
    return fail(
        ErrorCode::usage,
        "--max-memory: expected --calibration FILE: a model that samples its own text is read whole for "
        "every token");
  }
  return {};
}

/// How long it will take from here; within a limit of memory, the disk it needs.
Status say_needs(const Arguments& args, const tune::Recipe& recipe, const model::Model& model,
                 const MemoryLimit& memory, Console& console) {
  OPTIQ_TRY(auto options, profile_options(args.profile));
  OPTIQ_TRY(const double seconds, tune::estimate_seconds(model, recipe, args.profile.source.tokens,
                                                         options.label_draws, options.formats.size()));
  console.print(fmt::format("effort {}: about {}\n", args.effort, format_duration(seconds)));
  if (!memory.is_set()) return {};
  options.memory = memory;
  OPTIQ_TRY(const auto source, calibration_source(args.profile));
  console.print(fmt::format("{} of disk beside {} while it profiles\n",
                            format_bytes(profile::disk_needed(model, source, options)), args.out));
  return {};
}

/// What the verb works on.
struct Job {
  const Arguments& args;
  const tune::Recipe& recipe;
  const model::Model& model;
  const profile::Sensitivity& sensitivity;
  fs::path activations;  ///< the profile's
  plan::Budget budget;
  plan::Rules rules;
  UnseenTexts texts;
  const MemoryLimit& memory;
  Console& console;
};

/// Which formats the profile has may be more than were asked for.
Result<plan::Rules> rules_of(const Arguments& args) {
  OPTIQ_TRY(plan::Rules rules, rules_of(args.plan));
  rules.bits = args.profile.bits;
  rules.group_sizes = args.profile.groups;
  return rules;
}

/// All but the foldings: for the format of most weights.
fold::Options fold_options(const Job& job, const plan::Plan& plan) {
  fold::Options options;
  options.seed = job.args.profile.source.seed;
  options.encoder = plan.modules.front().encoder;
  options.format = plan::commonest_format(plan);
  return options;
}

/// Before any work: whether the model can take what --fold names.
Status check_folds(const Arguments& args, const model::Model& model) {
  if (args.folds == "auto") return {};
  OPTIQ_TRY(const auto folds, fold::parse_folds(args.folds));
  for (const fold::Fold fold : folds) OPTIQ_CHECK(fold::check_fold(model, fold));
  return {};
}

/// --fold, or what is best of those that were tried.
Result<compare::FoldChoice> choose_folds(const Job& job) {
  compare::FoldChoice choice;
  if (job.args.folds != "auto") {
    OPTIQ_TRY(choice.folds, fold::parse_folds(job.args.folds));
    return choice;
  }
  OPTIQ_TRY(const plan::Plan plan, plan::make_plan(job.sensitivity, job.budget, job.rules));
  return compare::choose_folds(plan, job.model, job.activations, job.texts.chosen, fold_options(job, plan),
                               hidden_folder_beside(job.args.out), job.console.progress());
}

/// The plan carried out in OUT, corrected and tuned as the recipe says, from the weights of `source`.
Result<tune::CarriedOut> carry_out_from(const Job& job, const model::Model& source,
                                        const fs::path& activations) {
  OPTIQ_TRY(const auto guards, plan::guard_plans(job.sensitivity, job.budget, job.rules));
  return tune::carry_out(
      {source, job.sensitivity, job.budget, job.rules, activations, guards, job.texts.chosen, job.args.out},
      carry_out_options(job.recipe), job.console.progress());
}

/// The plan carried out within a limit of memory: nothing of it is corrected.
Result<tune::CarriedOut> carry_out_bounded(const Job& job) {
  OPTIQ_TRY(plan::Plan plan, plan::make_plan(job.sensitivity, job.budget, job.rules));
  OPTIQ_TRY(const auto calibration, encode::read_calibration(job.activations, plan));
  OPTIQ_CHECK(encode::encode_checkpoint(job.model.checkpoint(), plan, calibration, job.args.out,
                                        {.memory = job.memory}, job.console.progress()));
  tune::CarriedOut result;
  result.refined.candidates.push_back({"plan", std::move(plan), 0});
  return result;
}

Result<tune::CarriedOut> carry_out(const Job& job, const std::vector<fold::Fold>& folds) {
  if (job.memory.is_set()) return carry_out_bounded(job);
  if (folds.empty()) return carry_out_from(job, job.model, job.activations);
  const ScratchFolder scratch(hidden_folder_beside(job.args.out));
  OPTIQ_TRY(const plan::Plan plan, plan::make_plan(job.sensitivity, job.budget, job.rules));
  fold::Options options = fold_options(job, plan);
  options.folds = folds;
  OPTIQ_TRY(const auto folded, fold::fold_for_encoding(job.model, job.activations, options, scratch.path(),
                                                       job.console.progress()));
  return carry_out_from(job, folded.model, folded.activations);
}

Result<evaluate::Quality> measure_out(const Job& job) {
  OPTIQ_TRY(auto qualities,
            evaluate::measure_folder(job.args.out, job.model, std::span(&job.texts.measured, 1),
                                     job.console.progress(), job.memory));
  return std::move(qualities.front());
}

/// A model that was written, and what was measured of it.
struct Measured {
  compare::Candidate candidate;
  evaluate::Quality quality;
};

/// The uniform plan by rounding to nearest, of no fewer bytes; nothing where none is that large.
Result<std::optional<Measured>> measure_baseline(const Job& job, std::uint64_t bytes) {
  auto plan = plan::uniform_plan_at_least(job.sensitivity, bytes);
  if (!plan) return std::optional<Measured>();
  for (auto& module : plan->modules) module.encoder = quant::Encoder::rtn;
  const std::string name = "uniform " + quant::to_string(plan->modules.front().format);
  Measured baseline{compare::plan_candidate(name, std::move(*plan)), {}};
  OPTIQ_TRY(auto qualities,
            evaluate::measure_trial({*baseline.candidate.plan, job.model, {}}, job.model,
                                    std::span(&job.texts.measured, 1), hidden_folder_beside(job.args.out),
                                    job.console.progress(), job.memory));
  baseline.quality = std::move(qualities.front());
  return std::optional(std::move(baseline));
}

Json candidates_json(const tune::RefineResult& refined) {
  Json json = Json::array();
  for (const tune::Candidate& candidate : refined.candidates)
    json.push_back(
        {{"name", candidate.name}, {"bytes", candidate.plan.bytes}, {"held_out_kl", candidate.divergence}});
  return json;
}

Json folds_json(const compare::FoldChoice& choice) {
  Json json{{"kept", fold::folds_name(choice.folds)}, {"trials", Json::array()}};
  for (const compare::FoldTrial& trial : choice.trials) {
    json["trials"].push_back({{"folds", fold::folds_name(trial.folds)},
                              {"held_out_kl", trial.kl.mean},
                              {"difference", trial.difference.mean},
                              {"difference_stderr", trial.difference.standard_error},
                              {"kept", trial.kept}});
  }
  return json;
}

/// Measures what lies in OUT beside the baseline, and says it all.
Status report_result(const Job& job, const tune::CarriedOut& done, const compare::FoldChoice& folds,
                     const fs::path& file) {
  const tune::RefineResult& refined = done.refined;
  const plan::Plan& plan = refined.candidates[refined.best].plan;
  Measured ours{compare::plan_candidate("optiq", plan), {}};
  OPTIQ_TRY(ours.quality, measure_out(job));
  OPTIQ_TRY(const auto baseline, measure_baseline(job, plan.bytes));
  std::vector<report::Quality> rows{report_row(ours.candidate, ours.quality)};
  rows.front().is_ours = true;
  if (baseline) rows.push_back(report_row(baseline->candidate, baseline->quality));
  OPTIQ_CHECK(write_quality_report(fs::path(job.args.out) / "report.html", job.sensitivity, job.rules, plan,
                                   baseline ? baseline->candidate.plan : std::nullopt, rows));

  Console& console = job.console;
  console.end_progress();
  console.print(quality_table(rows));
  console.print(cache_line(plan));
  console.print(latency_line(plan));
  console.print(memory_line(job.memory));
  if (!folds.folds.empty()) console.print(fmt::format("folded: {}\n", fold::folds_name(folds.folds)));
  if (done.rounded) console.print(rounding_line(*done.rounded));
  if (done.distilled) console.print(distillation_line(*done.distilled));
  console.print(fmt::format("predicted KL {:.5f} ± {:.5f}; report: {}/report.html\n", plan.predicted_kl,
                            plan.predicted_kl_standard_error, job.args.out));
  Json json = plan_summary(plan);
  json.update(quality_json(ours.quality));
  json["out"] = job.args.out;
  json["sensitivity"] = file.string();
  json["candidates"] = candidates_json(refined);
  json["folds"] = folds_json(folds);
  if (done.rounded) json["learned_rounding"] = tune::round_to_json(*done.rounded);
  if (done.distilled) json["distillation"] = tune::distill_to_json(*done.distilled);
  if (baseline) json["baseline"] = candidate_json(baseline->candidate, baseline->quality);
  console.print_json(json);
  return {};
}

Status quantize(const Arguments& args, const tune::Recipe& recipe, Console& console) {
  OPTIQ_CHECK(check_bounded(args, recipe));
  OPTIQ_CHECK(tune::check_stages(carry_out_options(recipe), recipe.sequences));
  OPTIQ_CHECK(encode::check_output(args.out));
  OPTIQ_TRY(const auto memory, memory_limit(args.memory, args.out));
  OPTIQ_TRY(const auto model, model::Model::open(args.model, args.memory.access()));
  OPTIQ_CHECK(check_folds(args, model));
  OPTIQ_TRY(const auto tokenizer, io::Tokenizer::open(args.model));
  const fs::path file = profile_file(args.quality, args.out);
  OPTIQ_TRY(auto rules, rules_of(args));
  OPTIQ_TRY(auto sensitivity, known_profile(args.quality, args.profile, file, model));
  std::optional<plan::Budget> budget;
  if (sensitivity) {
    OPTIQ_TRY(budget, budget_of(args.plan, *sensitivity));
  }
  OPTIQ_TRY(auto texts, unseen_texts(args.quality, args.profile, sensitivity, model, tokenizer, console));
  if (!sensitivity) {
    OPTIQ_CHECK(say_needs(args, recipe, model, memory, console));
    OPTIQ_TRY(sensitivity, measure_profile(args.profile, file, model, tokenizer, memory, console));
    OPTIQ_TRY(budget, budget_of(args.plan, *sensitivity));
  }
  const Job job{args,
                recipe,
                model,
                *sensitivity,
                profile::importance_path(file),
                std::move(*budget),
                std::move(rules),
                std::move(texts),
                memory,
                console};
  OPTIQ_TRY(const auto folds, choose_folds(job));
  OPTIQ_TRY(const auto done, carry_out(job, folds.folds));
  OPTIQ_CHECK(encode::verify_checkpoint(args.out));
  OPTIQ_CHECK(report_result(job, done, folds, file));
  return tune::forget_work(args.out);
}

}  // namespace

void add_quantize(VerbTable& verbs) {
  auto args = std::make_shared<Arguments>();
  CLI::App* verb = verbs.add("quantize", "Profile, plan, encode, verify and measure in one go");
  verb->add_option("model", args->model, "Full-precision model folder")->required();
  verb->add_option("out", args->out, "Folder to write")->required();
  add_quality_options(verb, args->quality);
  verb->add_option(
          "--effort", args->effort,
          "fast (range), balanced (gptq) or best (gptq; the plan corrected by what it costs, rounding, "
          "scales and biases trained)")
      ->check(CLI::IsMember({"fast", "balanced", "best"}))
      ->capture_default_str();
  verb->add_option("--fold", args->folds,
                   "Before encoding: none, some of r1, r2, awq, or auto (each tried, kept where KL falls)")
      ->capture_default_str();
  verb->add_option("--learned-bits", args->learned_bits,
                   "Learn the rounding of modules of at most so many bits, 0 for none (best: 3, otherwise 0)")
      ->check(CLI::Range(0, 8));
  add_profile_options(verb, args->profile);
  add_plan_options(verb, args->plan, {.planned_cache = true});
  add_memory_option(verb, args->memory);
  verbs.on_chosen(verb, [args, verb](Console& console) -> Status {
    OPTIQ_TRY(const auto effort, tune::parse_effort(args->effort));
    tune::Recipe recipe = tune::recipe_of(effort);
    // What was asked for by name counts more than the recipe.
    if (verb->count("--encoder") == 0) args->profile.encoder = quant::encoder_name(recipe.encoder);
    args->profile.caches = args->plan.need.plans_cache();
    if (verb->count("--learned-bits") > 0) recipe.learned_bits = args->learned_bits;
    if (verb->count("--sequences") == 0) args->profile.source.sequences = recipe.sequences;
    OPTIQ_TRY(recipe.encoder, quant::parse_encoder(args->profile.encoder));
    recipe.sequences = args->profile.source.sequences;
    return quantize(*args, recipe, console);
  });
}

}  // namespace optiq::apps
