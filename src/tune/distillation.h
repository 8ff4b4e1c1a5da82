// Training of scales and biases, with a state that it can be gone on from.
#pragma once

#include <span>

#include "optiq/tune/distill.h"
#include "targets.h"

namespace optiq::tune {

class Distillation {
 public:
  Distillation(const model::Model& model, const calibrate::TokenBatch& batch, const DistillOptions& options)
      : batch_(batch),
        options_(options),
        pairs_(trainable_pairs(model, options.most_bits)),
        student_(model, pairs_, options.compute),
        adam_(pairs_),
        best_(pairs_) {}
  Distillation(const Distillation&) = delete;  // the student knows where the pairs are
  Distillation& operator=(const Distillation&) = delete;

  /// Trains to the end; `save` is called behind every check but the one at the beginning.
  Status run(const std::vector<kernels::TopProbabilities>& targets, const Progress& progress,
             const std::function<Status()>& save);
  /// Whether nothing is left to do.
  [[nodiscard]] bool is_done() const { return result_.steps == steps() || has_stalled(); }

  /// Everything that the rest of the training depends on.
  Result<std::vector<std::byte>> state();
  /// Goes on from there; false, and of no use any more, where it is no state of this training.
  bool restore(std::span<const std::byte> state);

  [[nodiscard]] const DistillResult& result() const { return result_; }
  [[nodiscard]] const std::vector<Pairs>& best() const { return best_; }

 private:
  [[nodiscard]] std::int64_t trained() const { return batch_.sequences - options_.held_out_sequences; }
  [[nodiscard]] std::int64_t steps_an_epoch() const {
    return std::max<std::int64_t>(1, trained() / options_.batch_sequences);
  }
  [[nodiscard]] std::int64_t steps() const { return steps_an_epoch() * options_.epochs; }
  [[nodiscard]] bool has_stalled() const;
  Status train(const std::vector<std::int64_t>& order, const std::vector<kernels::TopProbabilities>& targets);
  Status check_held_out(const std::vector<kernels::TopProbabilities>& targets);
  /// All arrays of the state.
  std::vector<mx::array*> arrays();

  const calibrate::TokenBatch& batch_;
  const DistillOptions& options_;
  std::vector<Pairs> pairs_;
  Student student_;
  Adam adam_;
  std::vector<Pairs> best_;
  DistillResult result_;
};

}  // namespace optiq::tune
