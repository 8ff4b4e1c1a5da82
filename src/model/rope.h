// Reads config.json's rotary embedding, in both spellings that transformers has used.
#pragma once

#include "optiq/model/config.h"

namespace optiq::model {

/// `config` needs head_dim and max_positions set. Frequencies are computed in double and rounded once.
Result<Rope> parse_rope(const JsonReader& reader, const ModelConfig& config);

}  // namespace optiq::model
