// The readers of the tasks' files over any bytes.
#include <cstdint>
#include <string_view>

#include "optiq/evaluate/task.h"
#include "require.h"

namespace {

using namespace optiq::evaluate;

template <class T>
void require_value_or_bad_input(const optiq::Result<T>& result) {
  OPTIQ_FUZZ_REQUIRE(result ||
                     (result.error().code == optiq::ErrorCode::bad_input && !result.error().message.empty()));
}

void read_hellaswag(std::string_view text) {
  const auto questions = parse_hellaswag(text, "fuzz");
  require_value_or_bad_input(questions);
  if (!questions) return;
  for (const Question& question : *questions) {
    OPTIQ_FUZZ_REQUIRE(question.choices.size() == 4 && question.lengths.size() == 4 && question.gold < 4);
    for (const auto& choice : question.choices) OPTIQ_FUZZ_REQUIRE(choice.size() > 1);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto exercises = parse_mmlu(text, "fuzz");
  require_value_or_bad_input(exercises);
  if (exercises) {
    for (const Exercise& exercise : *exercises)
      OPTIQ_FUZZ_REQUIRE(exercise.choices.size() == 4 && exercise.answer < 4);
  }
  read_hellaswag(text);
  const auto unpacked = decompress_bzip2(text, 1 << 20, "fuzz");
  require_value_or_bad_input(unpacked);
  if (unpacked) read_hellaswag(*unpacked);
  return 0;
}
