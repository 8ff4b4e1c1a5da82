#include "engine_options.h"
#include "memory_options.h"
#include "optiq/calibrate/calibrate.h"
#include "optiq/evaluate/choices.h"
#include "optiq/evaluate/evaluate.h"
#include "optiq/runtime/cached_quality.h"
#include "quality_json.h"
#include "tasks_output.h"
#include "verbs.h"

namespace optiq::apps {

Json quality_json(const evaluate::Quality& quality) {
  Json json{{"ppl", quality.perplexity},
            {"ppl_stderr", quality.perplexity_standard_error},
            {"tokens", quality.tokens},
            {"context", quality.context},
            {"windows", quality.windows}};
  if (!quality.has_reference) return json;
  const evaluate::Distance& distance = quality.distance;
  json.update(Json{{"kl_mean", distance.kl.mean},
                   {"kl_stderr", distance.kl.standard_error},
                   {"kl_median", distance.kl_median},
                   {"kl_p99", distance.kl_p99},
                   {"kl_p999", distance.kl_p999},
                   {"kl_max", distance.kl_max},
                   {"top1_agreement", distance.top1_agreement.mean},
                   {"top1_agreement_stderr", distance.top1_agreement.standard_error}});
  return json;
}

namespace {

std::string quality_text(const evaluate::Quality& quality) {
  std::string text =
      fmt::format("perplexity         {:.4f} ± {:.4f}   ({} tokens in windows of {})\n", quality.perplexity,
                  quality.perplexity_standard_error, quality.tokens, quality.context);
  if (!quality.has_reference) return text;
  const evaluate::Distance& d = quality.distance;
  text += fmt::format("KL to reference    {:.5f} ± {:.5f} nats a token\n", d.kl.mean, d.kl.standard_error);
  text += fmt::format("  median {:.5f}, 99% {:.4f}, 99.9% {:.4f}, largest {:.4f}\n", d.kl_median, d.kl_p99,
                      d.kl_p999, d.kl_max);
  text += fmt::format("top-1 agreement    {:.2f} % ± {:.2f}\n", 100 * d.top1_agreement.mean,
                      100 * d.top1_agreement.standard_error);
  return text;
}

struct EvalArguments {
  std::string model, reference, text, data;
  std::vector<std::string> tasks;
  std::int64_t limit = 0;
  evaluate::Options options;
  evaluate::ChoiceOptions choices;
  MemoryArguments memory;
  EngineArguments engine;
};

/// What is measured, and what it is compared with.
struct Models {
  model::Model model;
  io::Tokenizer tokenizer;
  std::optional<model::Model> reference;

  static Result<Models> open(const EvalArguments& args) {
    OPTIQ_TRY(auto model, model::Model::open(args.model, args.memory.access()));
    OPTIQ_TRY(auto tokenizer, io::Tokenizer::open(args.model));
    Models models{std::move(model), std::move(tokenizer), {}};
    if (!args.reference.empty()) {
      OPTIQ_TRY(models.reference, model::Model::open(args.reference, args.memory.access()));
    }
    return models;
  }
  [[nodiscard]] const model::Model* reference_or_null() const { return reference ? &*reference : nullptr; }
};

/// How an engine caches keys and values, where it is to: as --kv or the model's plan says.
Result<std::optional<engine::Options>> engine_options(const EvalArguments& args) {
  std::optional<engine::Options> none;
  if (!args.engine.cache.is_given() && (!args.tasks.empty() || args.memory.max_memory)) return none;
  OPTIQ_TRY(engine::Options options, args.engine.options_for(args.model));
  if (!args.engine.cache.is_given() && options.block_caches.empty()) return none;
  options.compute = args.options.compute;
  options.huge_pages = false;
  return std::optional(std::move(options));
}

Result<evaluate::Quality> measure_text(const EvalArguments& args, const evaluate::Options& options,
                                       const Models& models, std::span<const std::int32_t> tokens,
                                       Console& console) {
  OPTIQ_TRY(const auto engine, engine_options(args));
  if (!engine) {
    return evaluate::evaluate_text(models.model, models.reference_or_null(), tokens, options,
                                   console.progress());
  }
  console.print(planned_cache_line(*engine));
  return runtime::evaluate_cached(models.model, models.reference_or_null(), tokens, options, *engine,
                                  console.progress());
}

Status eval_text(const EvalArguments& args, const Models& models, Console& console, Json& json) {
  OPTIQ_TRY(const auto tokens, calibrate::tokenize_file(args.text, models.tokenizer));
  evaluate::Options options = args.options;
  options.workers = console.workers;
  OPTIQ_TRY(options.memory, memory_limit(args.memory, std::filesystem::temp_directory_path() / "eval"));
  OPTIQ_TRY(const auto quality, measure_text(args, options, models, tokens, console));
  console.end_progress();
  console.print(memory_line(options.memory));
  console.print(quality_text(quality));
  json["text"] = args.text;
  json.update(quality_json(quality));
  json["window_nll"] = quality.window_nll;
  if (quality.has_reference) json["window_kl"] = quality.window_kl;
  return {};
}

Result<std::vector<evaluate::Task>> load_tasks(const EvalArguments& args) {
  if (!args.tasks.empty() && args.data.empty())
    return fail(ErrorCode::usage, "--tasks: expected --data DIR or the environment variable OPTIQ_DATA");
  std::vector<evaluate::Task> tasks;
  for (const std::string& name : args.tasks) {
    OPTIQ_TRY(evaluate::Task task, evaluate::load_task(name, args.data, args.limit));
    tasks.push_back(std::move(task));
  }
  return tasks;
}

Status eval_tasks(const EvalArguments& args, const std::vector<evaluate::Task>& tasks, const Models& models,
                  Console& console, Json& json) {
  evaluate::ChoiceOptions options = args.choices;
  options.compute = args.options.compute;
  options.workers = console.workers;
  OPTIQ_TRY(const auto answers, evaluate::answer_tasks(models.model, models.reference_or_null(),
                                                       models.tokenizer, tasks, options, console.progress()));
  console.end_progress();
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    console.print(task_text(tasks[i], answers[i]));
    json["tasks"][tasks[i].name] = task_json(tasks[i], answers[i]);
  }
  return {};
}

Status eval(const EvalArguments& args, Console& console) {
  if (args.text.empty() && args.tasks.empty())
    return fail(ErrorCode::usage, "eval: expected --text, --tasks or both");
  if (!args.tasks.empty() && args.memory.max_memory)
    return fail(ErrorCode::usage,
                "eval: --tasks reads all weights for every batch; --max-memory goes with --text");
  if (args.engine.cache.is_given() && (!args.tasks.empty() || args.memory.max_memory))
    return fail(ErrorCode::usage, "eval: --kv goes with --text only, without --tasks and --max-memory");
  OPTIQ_TRY(const auto tasks, load_tasks(args));
  OPTIQ_TRY(const Models models, Models::open(args));
  Json json{{"model", args.model}, {"reference", args.reference}};
  if (!args.text.empty()) OPTIQ_CHECK(eval_text(args, models, console, json));
  if (!tasks.empty()) OPTIQ_CHECK(eval_tasks(args, tasks, models, console, json));
  console.print_json(json);
  return {};
}

}  // namespace

void add_eval(VerbTable& verbs) {
  auto args = std::make_shared<EvalArguments>();
  CLI::App* verb =
      verbs.add("eval", "Measure perplexity, KL to a reference model, and answers to MMLU and HellaSwag");
  verb->add_option("model", args->model, "Model folder")->required();
  verb->add_option("--reference", args->reference, "Folder of the full-precision model");
  verb->add_option("--text", args->text, "Text file");
  verb->add_option("--context", args->options.context, "Tokens of a window")->capture_default_str();
  verb->add_option("--windows", args->options.max_windows, "Only the first so many windows (0: all)")
      ->check(CLI::NonNegativeNumber);
  verb->add_option("--tasks", args->tasks, "mmlu, hellaswag or both, with a comma between")->delimiter(',');
  verb->add_option("--limit", args->limit, "Questions of each task, spread over all of them (0: all)")
      ->check(CLI::NonNegativeNumber);
  verb->add_option("--data", args->data, "Folder with mmlu/ and hellaswag/")->envname("OPTIQ_DATA");
  verb->add_option("--journal", args->choices.journal,
                   "Keeps finished questions in this file; the same call goes on from there");
  const std::map<std::string, kernels::Compute> modes{
      {"f32", kernels::Compute::f32}, {"bf16", kernels::Compute::bf16}, {"int8", kernels::Compute::int8}};
  verb->add_option("--compute", args->options.compute, "Matrix products; int8: as run computes on a CPU")
      ->transform(CLI::CheckedTransformer(modes))
      ->default_str("f32");
  add_memory_option(verb, args->memory);
  add_cache_options(verb, args->engine.cache);
  verbs.share(verb);
  verbs.on_chosen(verb, [args](Console& console) { return eval(*args, console); });
}

}  // namespace optiq::apps
