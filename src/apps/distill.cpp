#include "optiq/tune/distill.h"

#include "optiq/profile/importance.h"
#include "verbs.h"

namespace optiq::apps {

void add_distill(VerbTable& verbs) {
  struct Arguments {
    std::string model, reference, calibration;
    tune::DistillOptions options;
  };
  auto args = std::make_shared<Arguments>();
  CLI::App* verb = verbs.add("distill", "Train the scales and biases of an encoded checkpoint, in place");
  verb->add_option("model", args->model, "Folder that optiq wrote")->required();
  verb->add_option("--reference", args->reference, "Folder of the full-precision model")->required();
  verb->add_option("--calibration", args->calibration,
                   "The profile's *.importance.safetensors: its tokens are used")
      ->required();
  verb->add_option("--epochs", args->options.epochs, "Passes over the calibration tokens")
      ->capture_default_str();
  verb->add_option("--learning-rate", args->options.learning_rate, "Of a pair, relative to its scale")
      ->capture_default_str();
  verbs.on_chosen(verb, [args](Console& console) -> Status {
    OPTIQ_TRY(const auto reference, model::Model::open(args->reference));
    OPTIQ_TRY(const auto batch, profile::read_calibration_tokens(args->calibration));
    OPTIQ_TRY(const auto result,
              tune::distill(args->model, reference, batch, args->options, console.progress()));
    console.end_progress();
    console.print(fmt::format("{}: held-out KL {:.5f} -> {:.5f} in {} steps\n", args->model,
                              result.held_out.front(), result.held_out[result.best], result.steps));
    console.print_json({{"model", args->model},
                        {"held_out_kl", result.held_out},
                        {"best", result.best},
                        {"steps", result.steps}});
    return {};
  });
}

}  // namespace optiq::apps
