#include "optiq/fold/fold.h"

#include "profile_options.h"

namespace optiq::apps {
namespace {

struct Arguments {
  std::string model, out, folds = "awq", format = "4x64";
  ProfileArguments profile;
};

Status fold_model(const Arguments& args, Console& console) {
  OPTIQ_TRY(const auto model, model::Model::open(args.model));
  fold::Options options;
  options.seed = args.profile.source.seed;
  OPTIQ_TRY(options.folds, fold::parse_folds(args.folds));
  OPTIQ_TRY(options.encoder, quant::parse_encoder(args.profile.encoder));
  OPTIQ_TRY(options.format, quant::parse_format(args.format));
  calibrate::TokenBatch tokens;
  if (fold::needs_tokens(options.folds)) {
    OPTIQ_TRY(const auto tokenizer, io::Tokenizer::open(args.model));
    OPTIQ_TRY(const auto source, calibration_source(args.profile));
    OPTIQ_TRY(tokens, calibrate::load(source, model, tokenizer, console.progress()));
  }
  OPTIQ_CHECK(fold::fold_checkpoint(model, tokens, options, args.out, console.progress()));
  console.end_progress();
  console.print(fmt::format("Folded {} into {}\n", args.model, args.out));
  console.print_json({{"source", args.model}, {"out", args.out}, {"folds", args.folds}});
  return {};
}

}  // namespace

void add_fold(VerbTable& verbs) {
  auto args = std::make_shared<Arguments>();
  CLI::App* verb = verbs.add("fold", "Make a model easier to quantize without changing what it computes");
  verb->add_option("model", args->model, "Full-precision model folder")->required();
  verb->add_option("out", args->out, "Folder to write")->required();
  verb->add_option("--fold", args->folds, "Some of r1, r2, awq")->capture_default_str();
  verb->add_option("--calibration", args->profile.calibration,
                   "awq: self (the default), or a .txt, .jsonl or .parquet file")
      ->allow_extra_args(false);
  verb->add_option("--sequences", args->profile.source.sequences, "Calibration sequences")
      ->capture_default_str();
  verb->add_option("--tokens", args->profile.source.tokens, "Tokens of each sequence")->capture_default_str();
  verb->add_option("--seed", args->profile.source.seed, "Of rotations and calibration")
      ->capture_default_str();
  verb->add_option("--encoder", args->profile.encoder, "awq: encoder that will write the weights")
      ->check(CLI::IsMember({"rtn", "range", "gptq"}))
      ->capture_default_str();
  verb->add_option("--format", args->format, "awq: format that they will have, such as 4x64")
      ->capture_default_str();
  verbs.on_chosen(verb, [args](Console& console) { return fold_model(*args, console); });
}

}  // namespace optiq::apps
