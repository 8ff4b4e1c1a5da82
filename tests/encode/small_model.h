// A checkpoint of three small modules on disk, and a plan for it.
#pragma once

#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "optiq/base/half.h"
#include "optiq/base/random.h"
#include "optiq/encode/encode.h"
#include "support/random_tensors.h"

namespace optiq::encode {

/// Preparations that must succeed.
inline void must(const Status& status) {
  if (!status) throw std::runtime_error(status.error().message);
}

inline const std::string kEmbedding = "model.embed_tokens";
inline const std::string kDown = "model.layers.0.mlp.down_proj";
inline const std::string kUp = "model.layers.0.mlp.up_proj";

inline test::StoredTensor normal_tensor(Random& random, const std::string& name,
                                        std::vector<std::int64_t> shape) {
  test::StoredTensor tensor{{name, DType::bf16, std::move(shape)}, {}};
  tensor.bytes.resize(io::tensor_bytes(tensor.spec).value());
  for (std::size_t i = 0; i < tensor.bytes.size(); i += 2) {
    const std::uint16_t bits = f32_to_bf16(static_cast<float>(0.02 * random.normal()));
    std::memcpy(&tensor.bytes[i], &bits, 2);
  }
  return tensor;
}

/// Tensors in no particular order, and one that no plan lists.
inline std::vector<test::StoredTensor> small_tensors(Random& random) {
  return {normal_tensor(random, "model.norm.weight", {128}),
          normal_tensor(random, kDown + ".weight", {128, 256}),
          normal_tensor(random, kUp + ".weight", {256, 128}), normal_tensor(random, kUp + ".bias", {256}),
          normal_tensor(random, kEmbedding + ".weight", {64, 128})};
}

inline constexpr const char* kSmallConfig =
    R"({"zebra":1,"model_type":"llama","architectures":["X"],"quantization_config":null,"apple":{"b":2,"a":1}})";

inline void write_source(const std::filesystem::path& folder, const std::vector<test::StoredTensor>& tensors,
                         std::string_view config = kSmallConfig) {
  std::filesystem::create_directories(folder);
  auto writer = io::CheckpointWriter::create(folder, io::layout_shards(test::specs_of(tensors))).value();
  for (const test::StoredTensor& tensor : tensors) must(writer.write(tensor.spec.name, tensor.bytes));
  must(writer.finish(74000));
  must(write_file_atomically(folder / "config.json", config));
  must(write_file_atomically(folder / "tokenizer.json", R"({"model":"of this checkpoint"})"));
  must(write_file_atomically(folder / "README.md", "not carried over"));
}

/// Fills in what follows from the formats.
inline void complete(plan::Plan& plan) {
  for (plan::PlannedModule& module : plan.modules) {
    module.bytes =
        quant::module_bytes(module.out_features, module.in_features, module.format, plan.model.dtype);
  }
  plan.bytes = plan::exact_bytes(plan);
  plan.bits_per_weight = static_cast<double>(plan.bytes) * 8 / static_cast<double>(plan.model.parameters);
}

inline plan::Plan small_plan(quant::Format embedding = {8, 32}, quant::Format down = {3, 64},
                             quant::Format up = {16, 0}) {
  plan::Plan plan;
  plan.model = {"small", "llama", 64 * 128 + 2 * 128 * 256 + 256 + 128, DType::bf16, 1, 2, 32};
  plan.modules = {{kEmbedding, 64, 128, -1, embedding, quant::Encoder::rtn},
                  {kUp, 256, 128, 0, up, quant::Encoder::range},
                  {kDown, 128, 256, 0, down, quant::Encoder::range}};
  plan.fixed = {{kUp + ".bias", DType::bf16, {256}}, {"model.norm.weight", DType::bf16, {128}}};
  complete(plan);
  return plan;
}

}  // namespace optiq::encode
