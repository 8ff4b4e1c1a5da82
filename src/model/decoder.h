// The forward pass as graphs over kernels/ops.h. Shapes as in model.h.
#pragma once

#include "optiq/model/model.h"
#include "optiq/model/weights.h"

namespace optiq::model {

struct Decoder {
  ModelConfig config;
  Weights weights;
  mx::array frequencies;                      ///< f32 [rotary_dim / 2]
  std::optional<mx::array> long_frequencies;  ///< longrope's second set
};

mx::array embed(const Decoder& decoder, const mx::array& tokens, const Pass& pass);
mx::array block(const Decoder& decoder, std::int64_t layer, const mx::array& hidden, const Pass& pass);
mx::array head(const Decoder& decoder, const mx::array& hidden, const Pass& pass);

}  // namespace optiq::model
