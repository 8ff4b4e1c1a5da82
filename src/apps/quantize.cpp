#include "optiq/base/units.h"
#include "optiq/compare/compare.h"
#include "optiq/encode/encode.h"
#include "optiq/evaluate/evaluate.h"
#include "optiq/report/html.h"
#include "optiq/tune/distill.h"
#include "optiq/tune/effort.h"
#include "optiq/tune/refine.h"
#include "memory_options.h"
#include "quality_json.h"
#include "quality_options.h"
#include "quality_table.h"

namespace optiq::apps {
namespace {

namespace fs = std::filesystem;

struct Arguments {
  std::string model, out, effort = "balanced";
  QualityArguments quality;
  ProfileArguments profile;
  PlanArguments plan;
  MemoryArguments memory;
};

/// A model that was written, and what was measured of it.
struct Candidate {
  std::string name;
  plan::Plan plan;
  evaluate::Quality quality;
};

Result<evaluate::Quality> measure(const fs::path& folder, const model::Model& reference,
                                  const calibrate::TokenBatch& batch, const MemoryLimit& memory,
                                  Console& console) {
  OPTIQ_TRY(const auto model, model::Model::open(folder, reference.checkpoint().access()));
  const evaluate::Options options{.context = batch.tokens, .memory = memory};
  return evaluate::evaluate_text(model, &reference, batch.ids, options, console.progress());
}

/// What a limit of memory rules out, asked before hours of work.
Status check_bounded(const Arguments& args, const tune::Recipe& recipe) {
  if (!args.memory.max_memory) return {};
  if (recipe.refine_rounds > 0 || recipe.distill_epochs > 0) {
    return fail(ErrorCode::usage,
                "--max-memory: expected --effort fast: what corrects and trains plans holds the whole model");
  }
  if (args.quality.text.empty() && args.profile.calibration.empty()) {
    return fail(ErrorCode::usage,
                "--max-memory: expected --calibration FILE: a model that samples its own text is read whole for "
                "every token");
  }
  return {};
}

/// The plan carried out within a limit of memory: nothing of it is corrected.
Result<tune::RefineResult> carry_out_bounded(const Arguments& args, const fs::path& file,
                                             const profile::Sensitivity& sensitivity,
                                             const plan::Rules& rules, const model::Model& model,
                                             const MemoryLimit& memory, Console& console) {
  OPTIQ_TRY(const auto budget, budget_of(args.plan, sensitivity));
  OPTIQ_TRY(plan::Plan plan, plan::make_plan(sensitivity, budget, rules));
  OPTIQ_TRY(const auto calibration, encode::read_calibration(profile::importance_path(file), plan));
  OPTIQ_CHECK(encode::encode_checkpoint(model.checkpoint(), plan, calibration, args.out, {.memory = memory},
                                        console.progress()));
  tune::RefineResult result;
  result.candidates.push_back({"plan", std::move(plan), 0});
  return result;
}

/// How long it will take from here; within a limit of memory, the disk it needs.
Status say_needs(const Arguments& args, const tune::Recipe& recipe, const model::Model& model,
                 const MemoryLimit& memory, Console& console) {
  OPTIQ_TRY(auto options, profile_options(args.profile));
  if (memory.is_set()) {
    options.memory = memory;
    OPTIQ_TRY(const auto source, calibration_source(args.profile));
    console.print(fmt::format("{} of disk beside {} while it profiles\n",
                              format_bytes(profile::disk_needed(model, source, options)), args.out));
    return {};
  }
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
  if (recipe.distill_epochs > 0) {
    OPTIQ_TRY(const auto tokens, profile::read_calibration_tokens(activations));
    OPTIQ_CHECK(
        tune::distill(args.out, model, tokens, {.epochs = recipe.distill_epochs}, console.progress()));
  }
  return result;
}

/// The uniform plan by rounding to nearest.
Result<Candidate> measure_baseline(const Arguments& args, plan::Plan plan, const model::Model& reference,
                                   const calibrate::TokenBatch& batch, const MemoryLimit& memory,
                                   Console& console) {
  for (auto& module : plan.modules) module.encoder = quant::Encoder::rtn;
  const std::string format = quant::to_string(plan.modules.front().format);
  const ScratchFolder scratch(hidden_folder_beside(args.out));
  OPTIQ_CHECK(encode::encode_checkpoint(reference.checkpoint(), plan, {}, scratch.path(), {.memory = memory},
                                        console.progress()));
  OPTIQ_TRY(auto quality, measure(scratch.path(), reference, batch, memory, console));
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
  OPTIQ_CHECK(check_bounded(args, recipe));
  OPTIQ_CHECK(encode::check_output(args.out));
  OPTIQ_TRY(const auto memory, memory_limit(args.memory, args.out));
  OPTIQ_TRY(const auto model, model::Model::open(args.model, args.memory.access()));
  OPTIQ_TRY(const auto tokenizer, io::Tokenizer::open(args.model));
  const fs::path file = profile_file(args.quality, args.out);
  OPTIQ_TRY(const auto rules, rules_of(args.plan));
  OPTIQ_TRY(const auto sensitivity,
            sensitivity_of(args.quality, args.profile, file, model, tokenizer, memory, console,
                           [&] { return say_needs(args, recipe, model, memory, console); }));
  OPTIQ_TRY(const auto refined,
            memory.is_set()
                ? carry_out_bounded(args, file, sensitivity, rules, model, memory, console)
                : carry_out(args, recipe, file, sensitivity, rules, model, tokenizer, console));
  Candidate ours{"optiq", refined.candidates[refined.best].plan, {}};
  OPTIQ_CHECK(encode::verify_checkpoint(args.out));

  OPTIQ_TRY(const auto batch,
            unseen_tokens(args.quality, args.profile, args.quality.text, 1, model, tokenizer, console));
  OPTIQ_TRY(ours.quality, measure(args.out, model, batch, memory, console));
  std::vector<report::Quality> rows{report_row(ours.name, ours.plan, ours.quality)};
  std::optional<Candidate> baseline;
  if (auto uniform = plan::uniform_plan_at_least(sensitivity, ours.plan.bytes)) {
    OPTIQ_TRY(baseline, measure_baseline(args, std::move(*uniform), model, batch, memory, console));
    rows.push_back(report_row(baseline->name, baseline->plan, baseline->quality));
  }
  OPTIQ_CHECK(write_quality_report(fs::path(args.out) / "report.html", sensitivity, rules, ours.plan,
                                   baseline ? std::optional(baseline->plan) : std::nullopt, rows));

  console.end_progress();
  console.print(quality_table(rows));
  console.print(latency_line(ours.plan));
  console.print(memory_line(memory));
  console.print(fmt::format("predicted KL {:.5f} ± {:.5f}; report: {}/report.html\n", ours.plan.predicted_kl,
                            ours.plan.predicted_kl_standard_error, args.out));
  Json json = plan_summary(ours.plan);
  json.update(quality_json(ours.quality));
  json["out"] = args.out;
  json["sensitivity"] = file.string();
  if (!memory.is_set()) json["candidates"] = candidates_json(refined);
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
                   "fast, balanced (gptq, the plan corrected by what it costs) or best (scales and biases "
                   "trained too)")
      ->check(CLI::IsMember({"fast", "balanced", "best"}))
      ->capture_default_str();
  add_profile_options(verb, args->profile);
  add_plan_options(verb, args->plan, false);
  add_memory_option(verb, args->memory);
  verbs.on_chosen(verb, [args, verb](Console& console) -> Status {
    OPTIQ_TRY(const auto effort, tune::parse_effort(args->effort));
    tune::Recipe recipe = tune::recipe_of(effort);
    // What was asked for by name counts more than the recipe.
    if (verb->count("--encoder") == 0) args->profile.encoder = quant::encoder_name(recipe.encoder);
    if (verb->count("--sequences") == 0) args->profile.source.sequences = recipe.sequences;
    OPTIQ_TRY(recipe.encoder, quant::parse_encoder(args->profile.encoder));
    recipe.sequences = args->profile.source.sequences;
    return quantize(*args, recipe, console);
  });
}

}  // namespace optiq::apps
