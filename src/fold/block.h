// The tensors of one block, or of none, while they are changed.
#pragma once

#include <functional>

#include "rewriter.h"

namespace optiq::fold {

class Block {
 public:
  /// layer −1: embeddings, last norm and head.
  Block(const model::Model& model, std::int64_t layer) : model_(model), layer_(layer) {}

  [[nodiscard]] std::int64_t layer() const { return layer_; }
  [[nodiscard]] const model::ModelConfig& config() const { return model_.config(); }
  [[nodiscard]] const io::Checkpoint& checkpoint() const { return model_.checkpoint(); }
  /// "model.layers.3." + name; the name itself outside the blocks.
  [[nodiscard]] std::string full_name(std::string_view name) const;

  /// A tensor as it is now, f32. `name` without the block's prefix.
  Result<mx::array> get(std::string_view name);
  void set(std::string_view name, mx::array values);
  [[nodiscard]] bool has(std::string_view name) const;
  [[nodiscard]] const Changes& changes() const { return changes_; }

  /// The modules that read the residual stream behind a norm, without prefix: q, k and v or the fused one;
  /// gate and up or the fused one.
  [[nodiscard]] std::vector<std::string> attention_readers() const;
  [[nodiscard]] std::vector<std::string> mlp_readers() const;

  /// Some rows of a module's weight and bias: those that make the value heads or up.
  struct Rows {
    std::string module;
    int first = 0;
    int count = 0;
  };
  [[nodiscard]] Rows value_rows() const;
  [[nodiscard]] Rows up_rows() const;

  /// Replaces these rows of weight and bias by what `change` makes of them: [count, in] → the same, [count,
  /// 1] → the same.
  Status change_rows(const Rows& rows, const std::function<mx::array(const mx::array&)>& change);

 private:
  const model::Model& model_;
  std::int64_t layer_;
  Changes changes_;
};

}  // namespace optiq::fold
