// What quantize and compare share: the profile they start from, and the tokens that quality is measured on.
#pragma once

#include <optional>

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

/// The profile that is there: one that was named is taken as it is; one that lies in `file` where it is of
/// this model and these options.
Result<std::optional<profile::Sensitivity>> known_profile(const QualityArguments& args,
                                                          const ProfileArguments& profile,
                                                          const std::filesystem::path& file,
                                                          const model::Model& model);

/// A new one, written to `file`.
Result<profile::Sensitivity> measure_profile(const ProfileArguments& profile,
                                             const std::filesystem::path& file, const model::Model& model,
                                             const io::Tokenizer& tokenizer, const MemoryLimit& memory,
                                             Console& console);

/// What nothing was calibrated on, in windows that no two of these share.
struct UnseenTexts {
  calibrate::TokenBatch measured;  ///< of --text, or of the calibration source where there is none
  calibrate::TokenBatch chosen;    ///< of the calibration source: what plans are chosen by
};
/// `known`: the profile that is there already; where it is of the source that the arguments name, its windows
/// are left out, else those that a profile made now will see. bad_input where the source has too few windows.
Result<UnseenTexts> unseen_texts(const QualityArguments& args, const ProfileArguments& profile,
                                 const std::optional<profile::Sensitivity>& known, const model::Model& model,
                                 const io::Tokenizer& tokenizer, Console& console);

}  // namespace optiq::apps
