// Golden models quantized by MLX, every module in a format of its own.
#pragma once

#include <optional>

#include "optiq/model/model.h"
#include "support/arrays.h"
#include "support/model_folder.h"

namespace optiq::test {

/// A quantized model and the dense one of the same weights.
struct QuantizedPair {
  ModelFolder quantized;
  ModelFolder dense;
};

/// Every module of `name` in a format of its own (all widths in turn; groups as its width allows), but every
/// seventh dense. Scales stay in `dtype`; the dense weights are q·s + b of those very scales, in f32.
inline QuantizedPair quantized_pair(const std::string& name, mx::Dtype dtype) {
  QuantizedPair pair{ModelFolder::golden(name), ModelFolder::golden(name)};
  pair.quantized.config["quantization"] = {{"group_size", 32}, {"bits", 4}, {"mode", "affine"}};
  const model::ModelConfig config = model::parse_config(pair.dense.config, name).value();
  int i = 0;
  for (const model::ModuleShape& module : model::module_shapes(config)) {
    const int bits = quant::kBitChoices[i % 6];
    const int group = module.in_features % 64 == 0 && i % 2 == 0 ? 64 : 32;
    Json& own = pair.quantized.config["quantization"][module.name];
    if (++i % 7 == 0) {
      own = false;
      continue;
    }
    own = {{"group_size", group}, {"bits", bits}};
    const mx::array weight = mx::astype(pair.dense.at(module.name + ".weight"), dtype);
    const auto packed = mx::quantize(weight, group, bits);
    pair.quantized.set(module.name + ".weight", packed[0]);
    pair.quantized.set(module.name + ".scales", packed[1]);
    pair.quantized.set(module.name + ".biases", packed[2]);
    pair.dense.set(module.name + ".weight", mx::dequantize(packed[0], mx::astype(packed[1], mx::float32),
                                                           mx::astype(packed[2], mx::float32), group, bits));
  }
  return pair;
}

struct OpenedModel {
  explicit OpenedModel(const ModelFolder& folder) {
    folder.write(place.path());
    auto opened = model::Model::open(place.path());
    EXPECT_TRUE(opened) << opened.error().message;
    if (opened) model.emplace(std::move(*opened));
  }
  TemporaryFolder place;
  std::optional<model::Model> model;
};

}  // namespace optiq::test
