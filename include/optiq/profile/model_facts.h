// What sizes depend on, and the other parts that sensitivity.json and plan.json share.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "optiq/base/dtype.h"
#include "optiq/base/json.h"
#include "optiq/base/result.h"
#include "optiq/io/safetensors.h"
#include "optiq/quant/format.h"

namespace optiq::profile {

struct ModelFacts {
  std::string name;             ///< as the user gave it: a folder or a Hub name
  std::string family;           ///< config.json's model_type
  std::int64_t parameters = 0;  ///< elements of all tensors of the full-precision checkpoint
  DType dtype = DType::bf16;    ///< of dense weights, scales and biases
  std::int64_t layers = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t max_positions = 0;  ///< 0: unknown
  /// model::ModelConfig's: blocks from first_sliding_layer on attend to so many last tokens. 0: none, or not
  /// known (as in files of before they were recorded).
  std::int64_t sliding_window = 0, first_sliding_layer = 0;
};

inline constexpr std::int64_t kFileVersion = 1;
/// bad_input unless "format" is `expected` and "version" is kFileVersion.
Status check_file_kind(const JsonReader& reader, std::string_view expected);
/// "bits" and "group_size" of an object; 16 and 0 are dense. Only the range is checked: see
/// quant::check_format.
Result<quant::Format> format_from_json(const JsonReader& reader);

Json model_to_json(const ModelFacts& model);
Result<ModelFacts> model_from_json(const JsonReader& reader);
Json tensors_to_json(const std::vector<io::TensorSpec>& tensors);
Result<std::vector<io::TensorSpec>> tensors_from_json(const JsonReader& reader, std::string_view key);
/// Sizes positive and small enough that no product of them overflows; dtype one that weights may have.
Status check_model(const ModelFacts& model, const std::string& where);
/// Names unique and not empty, bytes that fit.
Status check_tensors(const std::vector<io::TensorSpec>& tensors, const std::string& where);
/// Sizes positive with a product of at most 2^48.
Status check_shape(std::int64_t out_features, std::int64_t in_features, const std::string& where);
/// check_shape, and layer in [-1, layers).
Status check_matrix(const ModelFacts& model, std::int64_t out_features, std::int64_t in_features,
                    std::int64_t layer, const std::string& where);

}  // namespace optiq::profile
