// What eval says of multiple-choice tasks.
#pragma once

#include "optiq/base/json.h"
#include "optiq/evaluate/choices.h"

namespace optiq::apps {

/// docs/formats.md, `eval --tasks`.
Json task_json(const evaluate::Task& task, const evaluate::TaskAnswers& answers);
std::string task_text(const evaluate::Task& task, const evaluate::TaskAnswers& answers);

}  // namespace optiq::apps
