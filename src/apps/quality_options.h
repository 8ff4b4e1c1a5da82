// What quantize and compare share: the profile they start from, and the tokens that quality is measured on.
#pragma once

#include <functional>

#include "profile_options.h"

namespace optiq::apps {

struct QualityArguments {
  std::string sensitivity;  ///< a profile's file; empty: one beside the output
  std::string text;
  std::int64_t eval_sequences = 16;
};
void add_quality_options(CLI::App* verb, QualityArguments& args);

/// Where the profile lies, or will: the file that was named, or OUT.sensitivity.json.
std::filesystem::path profile_file(const QualityArguments& args, const std::string& out);

/// A profile that was named is taken as it is; one that lies in `file` already where it is of this model and
/// these options; otherwise `before` is called, and a new one measured.
Result<profile::Sensitivity> sensitivity_of(const QualityArguments& args, const ProfileArguments& profile,
                                            const std::filesystem::path& file, const model::Model& model,
                                            const io::Tokenizer& tokenizer, const MemoryLimit& memory,
                                            Console& console, const std::function<Status()>& before);

/// Tokens that the profile has not seen: of `text`, or of the calibration source where it is empty, with a
/// seed that is `seed_step` further.
Result<calibrate::TokenBatch> unseen_tokens(const QualityArguments& args, const ProfileArguments& profile,
                                            const std::string& text, std::uint64_t seed_step,
                                            const model::Model& model, const io::Tokenizer& tokenizer,
                                            Console& console);

}  // namespace optiq::apps
