#include "optiq/tune/round.h"

#include "tune_options.h"

namespace optiq::apps {

void add_round(VerbTable& verbs) {
  struct Arguments {
    TuneArguments files;
    tune::RoundOptions options;
  };
  auto args = std::make_shared<Arguments>();
  CLI::App* verb = verbs.add("round", "Learn the rounding of an encoded checkpoint block by block, in place");
  add_tune_options(verb, args->files);
  verb->add_option("--most-bits", args->options.most_bits, "Modules of more bits stay as they are")
      ->capture_default_str();
  verb->add_option("--steps", args->options.steps, "Steps of each block")->capture_default_str();
  verb->add_option("--offset-rate", args->options.offset_rate,
                   "Levels that a step moves a rounding offset by, at the beginning")
      ->capture_default_str();
  verb->add_option("--range-rate", args->options.range_rate,
                   "Share of a group's range that a step moves its ends by, at the beginning")
      ->capture_default_str();
  verbs.on_chosen(verb, [args](Console& console) -> Status {
    OPTIQ_TRY(const auto inputs, tune_inputs(args->files));
    OPTIQ_TRY(const auto result, tune::learn_rounding(args->files.model, inputs.reference, inputs.tokens,
                                                      args->options, console.progress()));
    console.end_progress();
    console.print(fmt::format("{}: {}", args->files.model, rounding_line(result)));
    Json json{{"model", args->files.model}};
    json.update(tune::round_to_json(result));
    console.print_json(json);
    return {};
  });
}

}  // namespace optiq::apps
