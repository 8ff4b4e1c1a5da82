// The loaders behind load_task: all questions of a task.
#pragma once

#include "optiq/evaluate/task.h"

namespace optiq::evaluate {

Result<std::vector<Question>> load_mmlu(const std::filesystem::path& folder);
Result<std::vector<Question>> load_hellaswag(const std::filesystem::path& folder);
}  // namespace optiq::evaluate
