#include "tune_options.h"

#include "optiq/profile/importance.h"

namespace optiq::apps {

void add_tune_options(CLI::App* verb, TuneArguments& args) {
  verb->add_option("model", args.model, "Folder that optiq wrote")->required();
  verb->add_option("--reference", args.reference, "Folder of the full-precision model")->required();
  verb->add_option("--calibration", args.calibration,
                   "The profile's *.importance.safetensors: its tokens are used")
      ->required();
}

Result<TuneInputs> tune_inputs(const TuneArguments& args) {
  OPTIQ_TRY(auto reference, model::Model::open(args.reference));
  OPTIQ_TRY(auto tokens, profile::read_calibration_tokens(args.calibration));
  return TuneInputs{std::move(reference), std::move(tokens)};
}

std::string rounding_line(const tune::RoundResult& result) {
  return fmt::format("rounding learned in {} blocks, {} steps each: held-out KL {:.5f} -> {:.5f}{}\n",
                     result.blocks.size(), result.steps, result.divergence_before, result.divergence_after,
                     result.is_kept ? "" : ", not kept");
}

std::string distillation_line(const tune::DistillResult& result) {
  return fmt::format("scales and biases distilled, {} steps: held-out KL {:.5f} -> {:.5f}\n", result.steps,
                     result.held_out.front(), result.held_out[result.best]);
}

}  // namespace optiq::apps
