#include "optiq/calibrate/calibrate.h"
#include "optiq/evaluate/evaluate.h"
#include "quality_json.h"
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

}  // namespace

void add_eval(VerbTable& verbs) {
  struct Arguments {
    std::string model, reference, text;
    evaluate::Options options;
  };
  auto args = std::make_shared<Arguments>();
  CLI::App* verb = verbs.add("eval", "Measure perplexity, and KL to a reference model");
  verb->add_option("model", args->model, "Model folder")->required();
  verb->add_option("--reference", args->reference, "Folder of the full-precision model");
  verb->add_option("--text", args->text, "Text file")->required();
  verb->add_option("--context", args->options.context, "Tokens of a window")->capture_default_str();
  verb->add_option("--windows", args->options.max_windows, "Only the first so many windows (0: all)")
      ->check(CLI::NonNegativeNumber);
  const std::map<std::string, kernels::Compute> modes{
      {"f32", kernels::Compute::f32}, {"bf16", kernels::Compute::bf16}, {"int8", kernels::Compute::int8}};
  verb->add_option("--compute", args->options.compute, "Matrix products; int8: as run computes on a CPU")
      ->transform(CLI::CheckedTransformer(modes))
      ->default_str("f32");
  verbs.on_chosen(verb, [args](Console& console) -> Status {
    OPTIQ_TRY(const auto model, model::Model::open(args->model));
    OPTIQ_TRY(const auto tokenizer, io::Tokenizer::open(args->model));
    std::optional<model::Model> reference;
    if (!args->reference.empty()) {
      OPTIQ_TRY(reference, model::Model::open(args->reference));
    }
    OPTIQ_TRY(const auto tokens, calibrate::tokenize_file(args->text, tokenizer));
    OPTIQ_TRY(const auto quality, evaluate::evaluate_text(model, reference ? &*reference : nullptr, tokens,
                                                          args->options, console.progress()));
    console.end_progress();
    console.print(quality_text(quality));
    Json json{{"model", args->model}, {"reference", args->reference}, {"text", args->text}};
    json.update(quality_json(quality));
    json["window_nll"] = quality.window_nll;
    if (quality.has_reference) json["window_kl"] = quality.window_kl;
    console.print_json(json);
    return {};
  });
}

}  // namespace optiq::apps
