// Log-likelihoods of the choices of one batch.
#pragma once

#include <span>

#include "optiq/model/model.h"
#include "rows.h"

namespace optiq::evaluate {

/// One model, and the keys and values of the beginning that was computed last.
class ChoiceScorer {
 public:
  ChoiceScorer(const model::Model& model, kernels::Compute compute) : model_(model), compute_(compute) {}

  /// Nats, one a choice of the batch.
  Result<std::vector<double>> score(const Batch& batch);

 private:
  Status share(const Batch& batch);
  Status score_rows(std::span<const Row> rows, std::size_t shared, std::vector<double>& likelihoods) const;
  [[nodiscard]] Result<model::mx::array> hidden_of(std::span<const Row> rows, std::size_t shared) const;

  model::Model model_;
  kernels::Compute compute_;
  std::vector<std::int32_t> shared_tokens_;
  model::KvCache shared_;
};

}  // namespace optiq::evaluate
