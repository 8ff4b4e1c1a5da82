#include "quality_options.h"

namespace optiq::apps {

void add_quality_options(CLI::App* verb, QualityArguments& args) {
  verb->add_option("--sensitivity", args.sensitivity,
                   "Profile to use; measured and written there where it is missing");
  verb->add_option("--text", args.text,
                   "Text to measure quality on (default: the calibration source, another seed)");
  verb->add_option("--eval-sequences", args.eval_sequences, "Sequences to measure quality on")
      ->capture_default_str();
}

std::filesystem::path profile_file(const QualityArguments& args, const std::string& out) {
  return args.sensitivity.empty() ? out + ".sensitivity.json" : args.sensitivity;
}

Result<profile::Sensitivity> sensitivity_of(const QualityArguments& args, const ProfileArguments& profile,
                                            const std::filesystem::path& file, const model::Model& model,
                                            const io::Tokenizer& tokenizer, const MemoryLimit& memory,
                                            Console& console, const std::function<Status()>& before) {
  std::error_code ignored;
  if (!args.sensitivity.empty() && std::filesystem::exists(file, ignored))
    return profile::read_sensitivity(file);
  OPTIQ_TRY(auto options, profile_options(profile));
  options.memory = memory;
  OPTIQ_TRY(const auto source, calibration_source(profile));
  if (auto known = profile::find_profile(file, model, source, options)) return std::move(*known);
  OPTIQ_CHECK(before());
  return profile::profile(model, tokenizer, source, options, file, console.progress());
}

Result<calibrate::TokenBatch> unseen_tokens(const QualityArguments& args, const ProfileArguments& profile,
                                            const std::string& text, std::uint64_t seed_step,
                                            const model::Model& model, const io::Tokenizer& tokenizer,
                                            Console& console) {
  OPTIQ_TRY(calibrate::Source source, calibration_source(profile));
  if (!text.empty()) source.parts = {calibrate::Part{text}};
  source.sequences = args.eval_sequences;
  source.seed += seed_step;
  return calibrate::load(source, model, tokenizer, console.progress());
}

}  // namespace optiq::apps
