// How questions become sequences of tokens that a model reads, and which of them it reads together.
#pragma once

#include <cstdint>
#include <vector>

#include "optiq/evaluate/task.h"
#include "optiq/io/tokenizer.h"
#include "optiq/model/config.h"

namespace optiq::evaluate {

/// Choices read off one sequence: labels[i] is predicted at position first + i.
struct Target {
  std::size_t choice = 0;  ///< over all choices of a batch, in order
  std::size_t first = 0;
  std::vector<std::int32_t> labels;
};

struct Row {
  std::vector<std::int32_t> tokens;
  std::vector<Target> targets;
};

/// Questions that are computed together; their rows begin with the same `shared` tokens, and some are left in
/// each.
struct Batch {
  std::size_t questions = 0;
  std::size_t choices = 0;
  std::size_t shared = 0;
  bool one_by_one = false;  ///< rows of other lengths may not be padded to one
  std::vector<Row> rows;

  /// Tokens that go through the model, without the shared ones.
  [[nodiscard]] std::size_t tokens() const;
};

/// The task's questions, in order. bad_input as answer_tasks.
Result<std::vector<Batch>> make_batches(const Task& task, const io::Tokenizer& tokenizer,
                                        const model::ModelConfig& config);

}  // namespace optiq::evaluate
