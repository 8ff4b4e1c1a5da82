#include "quality_options.h"

namespace optiq::apps {

void add_quality_options(CLI::App* verb, QualityArguments& args) {
  verb->add_option("--sensitivity", args.sensitivity,
                   "Profile to use; measured and written there where it is missing");
  verb->add_option("--text", args.text,
                   "Text to measure quality on (default: what calibration left of its source)");
  verb->add_option("--eval-sequences", args.eval_sequences, "Sequences to measure quality on")
      ->capture_default_str();
}

std::filesystem::path profile_file(const QualityArguments& args, const std::string& out) {
  return args.sensitivity.empty() ? out + ".sensitivity.json" : args.sensitivity;
}

Result<std::optional<profile::Sensitivity>> known_profile(const QualityArguments& args,
                                                          const ProfileArguments& profile,
                                                          const std::filesystem::path& file,
                                                          const model::Model& model) {
  std::error_code ignored;
  if (!args.sensitivity.empty() && std::filesystem::exists(file, ignored)) {
    OPTIQ_TRY(auto named, profile::read_sensitivity(file));
    return std::optional(std::move(named));
  }
  OPTIQ_TRY(const auto options, profile_options(profile));
  OPTIQ_TRY(const auto source, calibration_source(profile));
  return profile::find_profile(file, model, source, options);
}

Result<profile::Sensitivity> measure_profile(const ProfileArguments& profile,
                                             const std::filesystem::path& file, const model::Model& model,
                                             const io::Tokenizer& tokenizer, const MemoryLimit& memory,
                                             Console& console) {
  OPTIQ_TRY(auto options, profile_options(profile));
  options.memory = memory;
  OPTIQ_TRY(const auto source, calibration_source(profile));
  return profile::profile(model, tokenizer, source, options, file, console.progress());
}

Result<UnseenTexts> unseen_texts(const QualityArguments& args, const ProfileArguments& profile,
                                 const std::optional<profile::Sensitivity>& known, const model::Model& model,
                                 const io::Tokenizer& tokenizer, Console& console) {
  OPTIQ_TRY(calibrate::Source seen, calibration_source(profile));
  if (known) seen = profile::seen_source(known->calibration, seen);
  const auto load = [&](const calibrate::Source& source) {
    return calibrate::load(source, model, tokenizer, console.progress());
  };
  UnseenTexts texts;
  if (args.text.empty()) {
    OPTIQ_TRY(const auto both, load(calibrate::held_out(seen, 2 * args.eval_sequences)));
    OPTIQ_TRY(std::tie(texts.measured, texts.chosen), calibrate::split(both));
    return texts;
  }
  OPTIQ_TRY(texts.chosen, load(calibrate::held_out(seen, args.eval_sequences)));
  OPTIQ_TRY(texts.measured, load(calibrate::held_out_of(args.text, seen, args.eval_sequences)));
  return texts;
}

}  // namespace optiq::apps
