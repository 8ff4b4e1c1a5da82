// Second moments of one stage's inputs while they are summed over sequences.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "optiq/profile/grams.h"
#include "optiq/workers/workers.h"

namespace optiq::profile {

/// sum += gram, an evaluated array of f32; an empty sum counts as zeros.
void add_gram(const model::mx::array& gram, std::vector<float>& sum);

/// Sums in double: they hardly depend on the order, and so not on how workers share the sequences.
class GramSums {
 public:
  /// `weights` is borrowed; modules that it lacks, or all where it is nullptr, count all tokens alike. The
  /// first token that is added has the weight number `first_token`.
  explicit GramSums(kernels::Compute compute, const TokenWeights* weights = nullptr,
                    std::int64_t first_token = 0)
      : compute_(compute), weights_(weights), first_token_(static_cast<std::size_t>(first_token)) {}

  /// To be given as a watch's tap; sequences come in order. Modules that read the same array share a sum.
  void add(const std::string& module, const model::mx::array& input);

  /// Evaluates what was added, one after another, and sums it in place: a Gram may take as much as a block.
  Status evaluate();

  /// Adds what other workers summed of the same modules.
  Status share(const Workers& workers);

  /// The means over `tokens` tokens. The sums are used up. Memory: one more Gram.
  [[nodiscard]] Result<Grams> means(std::int64_t tokens) &&;

 private:
  model::mx::array weighted(const std::string& module, const model::mx::array& input);

  kernels::Compute compute_;
  const TokenWeights* weights_;
  std::size_t first_token_;
  std::map<std::string, std::size_t> seen_;  ///< how many tokens of a weighted module
  std::map<std::string, std::vector<double>>
      sums_;  ///< lower triangles, row by row: as large as in floats whole
  std::vector<std::pair<std::string, model::mx::array>> pending_;
  std::map<std::string, std::string> input_of_;  ///< module → the one that holds its sum
  std::uintptr_t last_input_ = 0;
  std::string last_module_;
};

}  // namespace optiq::profile
