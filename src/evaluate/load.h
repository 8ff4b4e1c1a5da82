// The loaders behind load_task: all questions of a task.
#pragma once

#include "optiq/evaluate/task.h"

namespace optiq::evaluate {

Result<std::vector<Question>> load_mmlu(const std::filesystem::path& folder);
Result<std::vector<Question>> load_hellaswag(const std::filesystem::path& folder);
/// bad_input for damaged data, or more than `limit_bytes` of text.
Result<std::string> decompress_bzip2(std::string_view compressed, std::size_t limit_bytes, const std::string& where);

}  // namespace optiq::evaluate
