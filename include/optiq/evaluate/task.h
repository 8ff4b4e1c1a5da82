// Multiple-choice tasks, asked as lm-evaluation-harness asks them (docs/evaluation.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "optiq/base/result.h"

namespace optiq::evaluate {

struct Question {
  std::string id;       ///< of the data, whatever the limit: "anatomy/17", "hellaswag/17"
  std::string subject;  ///< questions of one subject stand together and share their examples; may be empty
  std::string context;
  std::vector<std::string> choices;  ///< what may follow the context, the space in front included
  std::vector<std::size_t> lengths;  ///< characters of each choice without that space: for acc_norm
  std::size_t gold = 0;
};

struct Task {
  std::string name;
  bool normalised = false;  ///< acc_norm is reported beside acc
  std::vector<Question> questions;
};

/// "mmlu" (five examples of the subject, DATA/mmlu/{dev,test}/SUBJECT_{dev,test}.csv) or "hellaswag"
/// (DATA/hellaswag/hellaswag_val_full.txt, or that with .bz2). `limit` > 0: that many questions, every
/// n/limit-th of all n: each subject has its share, the same ones in every run. usage for another name or a
/// negative limit, bad_input for files that are missing or malformed.
Result<Task> load_task(std::string_view name, const std::filesystem::path& data, std::int64_t limit);

/// One row of MMLU.
struct Exercise {
  std::string question;
  std::vector<std::string> choices;  ///< four
  std::size_t answer = 0;
};

/// CSV (RFC 4180) of six columns: question, four choices, the answer as 0 to 3 or A to D; with or without a
/// header.
Result<std::vector<Exercise>> parse_mmlu(std::string_view text, const std::string& where);

/// Six lines a question: context, the right ending's index, four endings.
Result<std::vector<Question>> parse_hellaswag(std::string_view text, const std::string& where);

/// bad_input for damaged data, or more than `limit_bytes` of text.
Result<std::string> decompress_bzip2(std::string_view compressed, std::size_t limit_bytes,
                                     const std::string& where);

/// "stem", "humanities", "social_sciences" or "other", which is also that of a subject that MMLU does not
/// have.
std::string_view mmlu_category(std::string_view subject);

}  // namespace optiq::evaluate
