#include "optiq/profile/model_facts.h"

#include <algorithm>
#include <unordered_set>

#include "optiq/base/text.h"

namespace optiq::profile {
namespace {

constexpr std::int64_t kLargestCount = 1 << 20;
constexpr std::int64_t kLargestMatrix = std::int64_t{1} << 48;

Status check_range(std::int64_t value, std::int64_t low, std::int64_t high, std::string_view what,
                   const std::string& where) {
  if (value >= low && value <= high) return {};
  return fail(ErrorCode::bad_input, "{}: \"{}\" is {}, expected {} to {}", where, what, value, low, high);
}

Result<DType> read_dtype(const JsonReader& reader) {
  OPTIQ_TRY(const std::string name, reader.string("dtype"));
  const auto dtype = dtype_from_name(name);
  if (!dtype)
    return fail(ErrorCode::bad_input, "{}: \"dtype\": unknown type {}", reader.where(), printable(name));
  return *dtype;
}

Result<io::TensorSpec> read_tensor(const JsonReader& reader) {
  io::TensorSpec tensor;
  OPTIQ_TRY(tensor.name, reader.string("name"));
  OPTIQ_TRY(tensor.dtype, read_dtype(reader));
  OPTIQ_TRY(const Json* shape, reader.array("shape"));
  for (const Json& extent : *shape) {
    if (!extent.is_number_integer() || extent < 0 || extent > kLargestMatrix) {
      return fail(ErrorCode::bad_input, "{}: \"shape\": {} is no extent", reader.where(),
                  printable(extent.dump()));
    }
    tensor.shape.push_back(extent.get<std::int64_t>());
  }
  return tensor;
}

}  // namespace

Status check_file_kind(const JsonReader& reader, std::string_view expected) {
  OPTIQ_TRY(const std::string format, reader.string("format"));
  OPTIQ_TRY(const std::int64_t version, reader.integer("version"));
  if (format == expected && version == kFileVersion) return {};
  return fail(ErrorCode::bad_input, "{}: format is \"{}\" version {}, expected \"{}\" version {}",
              reader.where(), printable(format), version, expected, kFileVersion);
}

Result<quant::Format> format_from_json(const JsonReader& reader) {
  OPTIQ_TRY(const std::int64_t bits, reader.integer("bits"));
  OPTIQ_TRY(const std::int64_t group_size, reader.integer("group_size"));
  const bool dense = bits == 16 && group_size == 0;
  if (!dense && (bits < 1 || bits > 8 || group_size < 1 || group_size > 1024)) {
    return fail(ErrorCode::bad_input, "{}: {} bits in groups of {} is no format", reader.where(), bits,
                group_size);
  }
  return quant::Format{.bits = static_cast<int>(bits), .group_size = static_cast<int>(group_size)};
}

Json model_to_json(const ModelFacts& model) {
  Json json{{"name", model.name},
            {"family", model.family},
            {"parameters", model.parameters},
            {"dtype", dtype_name(model.dtype)},
            {"layers", model.layers},
            {"kv_heads", model.kv_heads},
            {"head_dim", model.head_dim}};
  if (model.max_positions > 0) json["max_positions"] = model.max_positions;
  if (model.sliding_window > 0) {
    json["sliding_window"] = model.sliding_window;
    json["first_sliding_layer"] = model.first_sliding_layer;
  }
  return json;
}

Result<ModelFacts> model_from_json(const JsonReader& reader) {
  ModelFacts model;
  OPTIQ_TRY(model.name, reader.string("name"));
  OPTIQ_TRY(model.family, reader.string("family"));
  OPTIQ_TRY(model.parameters, reader.integer("parameters"));
  OPTIQ_TRY(model.dtype, read_dtype(reader));
  OPTIQ_TRY(model.layers, reader.integer("layers"));
  OPTIQ_TRY(model.kv_heads, reader.integer("kv_heads"));
  OPTIQ_TRY(model.head_dim, reader.integer("head_dim"));
  OPTIQ_TRY(model.max_positions, reader.integer_or("max_positions", 0));
  OPTIQ_TRY(model.sliding_window, reader.integer_or("sliding_window", 0));
  OPTIQ_TRY(model.first_sliding_layer, reader.integer_or("first_sliding_layer", 0));
  return model;
}

Json tensors_to_json(const std::vector<io::TensorSpec>& tensors) {
  Json list = Json::array();
  for (const io::TensorSpec& tensor : tensors) {
    list.push_back({{"name", tensor.name}, {"dtype", dtype_name(tensor.dtype)}, {"shape", tensor.shape}});
  }
  return list;
}

Result<std::vector<io::TensorSpec>> tensors_from_json(const JsonReader& reader, std::string_view key) {
  OPTIQ_TRY(const Json* list, reader.array(key));
  std::vector<io::TensorSpec> tensors;
  for (const Json& json : *list) {
    OPTIQ_TRY(io::TensorSpec tensor,
              read_tensor(JsonReader(json, fmt::format("{}: {}[{}]", reader.where(), key, tensors.size()))));
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

Status check_model(const ModelFacts& model, const std::string& where) {
  const std::string here = where + ": model";
  if (!is_float_dtype(model.dtype)) {
    return fail(ErrorCode::bad_input, "{}: \"dtype\" is {}, expected F16, BF16 or F32", here,
                dtype_name(model.dtype));
  }
  OPTIQ_CHECK(check_range(model.parameters, 1, kLargestMatrix, "parameters", here));
  OPTIQ_CHECK(check_range(model.layers, 1, kLargestCount, "layers", here));
  OPTIQ_CHECK(check_range(model.kv_heads, 1, kLargestCount, "kv_heads", here));
  OPTIQ_CHECK(check_range(model.max_positions, 0, kLargestMatrix, "max_positions", here));
  OPTIQ_CHECK(check_range(model.sliding_window, 0, INT32_MAX, "sliding_window", here));
  OPTIQ_CHECK(check_range(model.first_sliding_layer, 0, INT32_MAX, "first_sliding_layer", here));
  return check_range(model.head_dim, 1, kLargestCount, "head_dim", here);
}

Status check_tensors(const std::vector<io::TensorSpec>& tensors, const std::string& where) {
  std::unordered_set<std::string_view> names;
  std::uint64_t total = 0;
  for (const io::TensorSpec& tensor : tensors) {
    if (tensor.name.empty()) return fail(ErrorCode::bad_input, "{}: a tensor has no name", where);
    if (!names.insert(tensor.name).second)
      return fail(ErrorCode::bad_input, "{}: tensor {} is listed twice", where, printable(tensor.name));
    const auto bytes = io::tensor_bytes(tensor);
    if (!bytes) return with_context(bytes.error(), where);
    total += std::min<std::uint64_t>(*bytes, 1ull << 62);
    if (total >= 1ull << 62)
      return fail(ErrorCode::bad_input, "{}: tensor {} is too large", where, printable(tensor.name));
  }
  return {};
}

Status check_shape(std::int64_t out_features, std::int64_t in_features, const std::string& where) {
  OPTIQ_CHECK(check_range(out_features, 1, kLargestMatrix, "out_features", where));
  return check_range(in_features, 1, kLargestMatrix / out_features, "in_features", where);
}

Status check_matrix(const ModelFacts& model, std::int64_t out_features, std::int64_t in_features,
                    std::int64_t layer, const std::string& where) {
  OPTIQ_CHECK(check_shape(out_features, in_features, where));
  return check_range(layer, -1, model.layers - 1, "layer", where);
}

}  // namespace optiq::profile
