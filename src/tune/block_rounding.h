// The modules of one block whose rounding is learned.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "optiq/encode/encode.h"
#include "optiq/model/model.h"
#include "optiq/quant/rounding.h"

namespace optiq::tune {

namespace mx = model::mx;

/// What a block sees and what it should give, for some sequences.
struct BlockSample {
  mx::array input, target;  ///< f32 [sequences, tokens, hidden]
};

class BlockRounding {
 public:
  using Weights = std::unordered_map<std::string, mx::array>;

  /// Every module of `layer` that `student` has in at most `most_bits` bits; where `learned` has its tensors,
  /// they count instead. Weights come from `reference`.
  static Result<BlockRounding> make(const model::Model& student, const model::Model& reference,
                                    std::int64_t layer, int most_bits, kernels::Compute compute,
                                    const encode::TensorBytes& learned = {});

  [[nodiscard]] bool is_empty() const { return modules_.empty(); }
  /// What the block gives with its modules as they are now.
  [[nodiscard]] Result<mx::array> output(const mx::array& input) const;
  /// Mean over tokens of the squared error by the target's mean square.
  [[nodiscard]] Result<double> error(const BlockSample& sample) const;
  /// One step against the gradient of the error.
  Status step(const BlockSample& sample, const quant::RoundingStep& step);
  /// As they would be stored: module -> matrix.
  [[nodiscard]] std::unordered_map<std::string, quant::QuantizedMatrix> encoded() const;

 private:
  struct Module {
    std::string name;
    quant::LearnedRounding rounding;
    mx::array weight;  ///< what it gives, f32 [out, in]
  };
  BlockRounding(const model::Model& student, std::int64_t layer, kernels::Compute compute)
      : student_(student), layer_(layer), compute_(compute) {}
  [[nodiscard]] mx::array loss(const BlockSample& sample, const std::vector<mx::array>& weights) const;
  [[nodiscard]] std::vector<mx::array> weights() const;
  [[nodiscard]] mx::array run(const mx::array& input, const std::vector<mx::array>& weights) const;

  model::Model student_;
  std::int64_t layer_;
  kernels::Compute compute_;
  std::vector<Module> modules_;
};

}  // namespace optiq::tune
