#include "optiq/profile/profile.h"

#include "optiq/base/units.h"
#include "profile_options.h"

namespace optiq::apps {

void add_profile(VerbTable& verbs) {
  struct Arguments {
    std::string model, out = "sensitivity.json";
    ProfileArguments profile;
  };
  auto args = std::make_shared<Arguments>();
  CLI::App* verb = verbs.add("profile", "Measure how sensitive each module is to each precision");
  verb->add_option("model", args->model, "Full-precision model folder")->required();
  verb->add_option("-o,--out", args->out, "File to write")->capture_default_str();
  add_profile_options(verb, args->profile);
  verbs.on_chosen(verb, [args](Console& console) -> Status {
    OPTIQ_TRY(const auto model, model::Model::open(args->model));
    OPTIQ_TRY(const auto tokenizer, io::Tokenizer::open(args->model));
    OPTIQ_TRY(const auto options, profile_options(args->profile));
    OPTIQ_TRY(const auto source, calibration_source(args->profile));
    const auto start = std::chrono::steady_clock::now();
    OPTIQ_TRY(const auto result,
              profile::profile(model, tokenizer, source, options, args->out, console.progress()));
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    console.end_progress();
    console.print(fmt::format(
        "{}: {} modules by {} on {} sequences of {} tokens in {}; half-split rank correlation {:.3f}\n",
        args->out, result.modules.size(), profile::estimator_name(result.estimator),
        result.calibration.sequences, result.calibration.tokens, format_duration(seconds),
        result.half_split_spearman));
    console.print_json({{"out", args->out},
                        {"estimator", profile::estimator_name(result.estimator)},
                        {"modules", result.modules.size()},
                        {"sequences", result.calibration.sequences},
                        {"tokens", result.calibration.tokens},
                        {"half_split_spearman", result.half_split_spearman},
                        {"seconds", seconds}});
    return {};
  });
}

}  // namespace optiq::apps
