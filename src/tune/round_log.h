// What learned rounding has finished, block by block, so that a killed one is gone on with.
#pragma once

#include <optional>
#include <unordered_map>

#include "optiq/base/journal.h"
#include "optiq/quant/format.h"
#include "optiq/tune/round.h"
#include "work.h"

namespace optiq::tune {

/// A journal beside the checkpoint. Records: the fingerprint of what the checkpoint was; of each block with a
/// module of few bits, in order, its errors and its modules' tensors; at the end, what became of the whole.
class RoundLog {
 public:
  /// How it ended.
  struct Outcome {
    double divergence_before = 0, divergence_after = 0;
    std::uint64_t is_kept = 0;
    std::uint64_t content = 0;  ///< fingerprint of the checkpoint that it leads to
  };

  /// What lies beside `student`, where it is of the same work on a checkpoint that is as it was then, or as
  /// the work left it; otherwise a new one.
  static Result<RoundLog> open(const model::Model& student, int most_bits, const std::string& identity);

  [[nodiscard]] bool has(std::int64_t layer) const {
    return !blocks_.empty() && blocks_.back().layer >= layer;
  }
  [[nodiscard]] const std::vector<RoundResult::Block>& blocks() const { return blocks_; }
  /// Of all finished blocks; kept here.
  [[nodiscard]] const TensorBytes& tensors() const { return tensors_; }
  [[nodiscard]] const std::optional<Outcome>& outcome() const { return outcome_; }
  /// Whether the checkpoint is what the outcome leads to already.
  [[nodiscard]] bool is_applied() const { return outcome_ && outcome_->content == current_; }

  Status add_block(const RoundResult::Block& block,
                   const std::unordered_map<std::string, quant::QuantizedMatrix>& encoded);
  Status finish(double divergence_before, double divergence_after);
  Status remove() { return journal_->remove(); }

 private:
  /// A block's tensors in the order of its record.
  struct Layer {
    std::int64_t layer;
    std::vector<std::pair<std::string, std::uint64_t>> tensors;  ///< name and bytes
  };
  RoundLog(const model::Model& student, int most_bits);
  bool read(std::vector<std::vector<std::byte>> records);
  bool read_block(std::vector<std::byte> record);

  const model::Model& student_;
  std::vector<Layer> layers_;  ///< those with a module of few bits
  std::uint64_t current_;      ///< fingerprint of the checkpoint as it is
  std::optional<Journal> journal_;
  std::vector<std::vector<std::byte>> records_;  ///< of blocks: what tensors_ points into
  std::vector<RoundResult::Block> blocks_;
  TensorBytes tensors_;
  std::optional<Outcome> outcome_;
};

}  // namespace optiq::tune
