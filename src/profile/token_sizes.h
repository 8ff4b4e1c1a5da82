// Sizes of the gradients at a stage's outputs, token by token, and the weights that they make.
#pragma once

#include "optiq/model/model.h"
#include "optiq/profile/token_weights.h"
#include "optiq/workers/workers.h"

namespace optiq::profile {

class TokenSizes {
 public:
  /// The gradient at a module's output, f32 [.., out], for the tokens that come next. `owner`: the first
  /// module of the stage that reads the same input.
  Status add(const std::string& module, const std::string& owner, const model::mx::array& gradient);

  /// Puts those of other workers' tokens in front and behind, by rank; of the same modules.
  Status share(const Workers& workers);

  [[nodiscard]] TokenWeights weights() const;

 private:
  std::map<std::string, std::vector<float>> sizes_;
  std::map<std::string, std::string> owner_of_;
};

}  // namespace optiq::profile
