#include "optiq/tune/round.h"

#include "optiq/profile/importance.h"
#include "verbs.h"

namespace optiq::apps {

void add_round(VerbTable& verbs) {
  struct Arguments {
    std::string model, reference, calibration;
    tune::RoundOptions options;
  };
  auto args = std::make_shared<Arguments>();
  CLI::App* verb = verbs.add("round", "Learn the rounding of an encoded checkpoint block by block, in place");
  verb->add_option("model", args->model, "Folder that optiq wrote")->required();
  verb->add_option("--reference", args->reference, "Folder of the full-precision model")->required();
  verb->add_option("--calibration", args->calibration,
                   "The profile's *.importance.safetensors: its tokens are used")
      ->required();
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
    OPTIQ_TRY(const auto reference, model::Model::open(args->reference));
    OPTIQ_TRY(const auto batch, profile::read_calibration_tokens(args->calibration));
    OPTIQ_TRY(const auto result,
              tune::learn_rounding(args->model, reference, batch, args->options, console.progress()));
    console.end_progress();
    console.print(fmt::format("{}: held-out KL {:.5f} -> {:.5f}, {}\n", args->model, result.divergence_before,
                              result.divergence_after, result.is_kept ? "kept" : "left as it was"));
    Json blocks = Json::array();
    for (const auto& block : result.blocks)
      blocks.push_back(
          {{"layer", block.layer}, {"error_before", block.before}, {"error_after", block.after}});
    console.print_json({{"model", args->model},
                        {"held_out_kl_before", result.divergence_before},
                        {"held_out_kl_after", result.divergence_after},
                        {"kept", result.is_kept},
                        {"blocks", blocks}});
    return {};
  });
}

}  // namespace optiq::apps
