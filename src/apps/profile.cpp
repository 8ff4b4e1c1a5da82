#include "optiq/profile/profile.h"

#include "memory_options.h"
#include "optiq/base/units.h"
#include "profile_options.h"

namespace optiq::apps {

void add_profile(VerbTable& verbs) {
  struct Arguments {
    std::string model, out = "sensitivity.json";
    ProfileArguments profile;
    MemoryArguments memory;
  };
  auto args = std::make_shared<Arguments>();
  CLI::App* verb = verbs.add("profile", "Measure how sensitive each module is to each precision");
  verb->add_option("model", args->model, "Full-precision model folder")->required();
  verb->add_option("-o,--out", args->out, "File to write")->capture_default_str();
  add_profile_options(verb, args->profile);
  verb->add_flag("--kv", args->profile.caches,
                 "Price the KV cache's bits, too: keys and values of every block (fisher, kl)");
  add_memory_option(verb, args->memory);
  verbs.share(verb);
  verbs.on_chosen(verb, [args](Console& console) -> Status {
    OPTIQ_TRY(const auto limit, memory_limit(args->memory, args->out));
    OPTIQ_TRY(const auto model, model::Model::open(args->model, args->memory.access()));
    OPTIQ_TRY(const auto tokenizer, io::Tokenizer::open(args->model));
    OPTIQ_TRY(auto options, profile_options(args->profile));
    options.memory = limit;
    options.workers = console.workers;
    OPTIQ_TRY(const auto source, calibration_source(args->profile));
    if (limit.is_set()) {
      console.print(fmt::format("{} of disk beside {} while it works\n",
                                format_bytes(profile::disk_needed(model, source, options)), args->out));
    }
    const auto start = std::chrono::steady_clock::now();
    OPTIQ_TRY(const auto result,
              profile::profile(model, tokenizer, source, options, args->out, console.progress()));
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    console.end_progress();
    console.print(memory_line(limit));
    console.print(fmt::format(
        "{}: {} modules by {} on {} sequences of {} tokens in {}; half-split rank correlation {:.3f}\n",
        args->out, result.modules.size(), profile::estimator_name(result.estimator),
        result.calibration.sequences, result.calibration.tokens, format_duration(seconds),
        result.half_split_spearman));
    console.print_json({{"out", args->out},
                        {"kv", !result.caches.empty()},
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
