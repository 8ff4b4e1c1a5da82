#include "optiq/evaluate/task.h"

#include "load.h"

namespace optiq::evaluate {
namespace {

Result<Task> load_whole(std::string_view name, const std::filesystem::path& data) {
  Task task{std::string(name), name == "hellaswag", {}};
  if (name == "mmlu") {
    OPTIQ_TRY(task.questions, load_mmlu(data / "mmlu"));
  } else if (name == "hellaswag") {
    OPTIQ_TRY(task.questions, load_hellaswag(data / "hellaswag"));
  } else {
    return fail(ErrorCode::usage, "\"{}\": expected a task, mmlu or hellaswag", name);
  }
  return task;
}

}  // namespace

Result<Task> load_task(std::string_view name, const std::filesystem::path& data, std::int64_t limit) {
  if (limit < 0) return fail(ErrorCode::usage, "tasks: expected a limit ≥ 0, got {}", limit);
  OPTIQ_TRY(Task task, load_whole(name, data));
  const std::size_t all = task.questions.size(), wanted = static_cast<std::size_t>(limit);
  if (limit == 0 || wanted >= all) return task;
  for (std::size_t i = 0; i < wanted; ++i) {
    if (i * all / wanted != i) task.questions[i] = std::move(task.questions[i * all / wanted]);
  }
  task.questions.resize(wanted);
  return task;
}

}  // namespace optiq::evaluate
