// Mean squares of input channels while they are summed over sequences.
#pragma once

#include <vector>

#include "optiq/profile/importance.h"
#include "optiq/workers/workers.h"

namespace optiq::profile {

class ChannelEnergies {
 public:
  /// To be given as a watch's tap.
  void add(const std::string& module, const model::mx::array& input);
  /// Evaluates what was added, and sums it.
  Status evaluate();
  /// Adds what other workers summed of the same modules.
  Status share(const Workers& workers);
  /// The means over `tokens` tokens.
  [[nodiscard]] Importance means(std::int64_t tokens) const;

 private:
  std::vector<std::pair<std::string, model::mx::array>> pending_;
  std::map<std::string, std::vector<double>> sums_;
};

/// Whether all of them are finite numbers.
bool is_finite(const Importance& importance);

}  // namespace optiq::profile
