#include "optiq/tune/distill.h"

#include "tune_options.h"

namespace optiq::apps {

void add_distill(VerbTable& verbs) {
  struct Arguments {
    TuneArguments files;
    tune::DistillOptions options;
  };
  auto args = std::make_shared<Arguments>();
  CLI::App* verb = verbs.add("distill", "Train the scales and biases of an encoded checkpoint, in place");
  add_tune_options(verb, args->files);
  verb->add_option("--epochs", args->options.epochs, "Passes over the calibration tokens")
      ->capture_default_str();
  verb->add_option("--learning-rate", args->options.learning_rate, "Of a pair, relative to its scale")
      ->capture_default_str();
  verbs.on_chosen(verb, [args](Console& console) -> Status {
    OPTIQ_TRY(const auto inputs, tune_inputs(args->files));
    OPTIQ_TRY(const auto result, tune::distill(args->files.model, inputs.reference, inputs.tokens,
                                               args->options, console.progress()));
    console.end_progress();
    console.print(fmt::format("{}: {}", args->files.model, distillation_line(result)));
    Json json{{"model", args->files.model}};
    json.update(tune::distill_to_json(result));
    console.print_json(json);
    return {};
  });
}

}  // namespace optiq::apps
