// Decoding by MLX's graphs, on its default device, with each format of the KV cache, in the shape of a Llama
// of 1.2 billion parameters with random weights: tokens a second, and the most memory beside the weights.
// usage: optiq_graph_cache_bench FOLDER LAYERS DEPTH...     (FOLDER: for the model, 2.5 GB with 16 layers)
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "optiq/base/file.h"
#include "optiq/base/json.h"
#include "src/runtime/backend.h"

namespace optiq {
namespace {

namespace mx = mlx::core;
using kernels::cpu::CacheFormat;
using kernels::cpu::CacheStorage;

constexpr int kHidden = 2048, kInner = 8192, kHeads = 32, kKvHeads = 8, kHeadDim = 64, kVocabulary = 128256;

Status write_model(const std::filesystem::path& folder, int layers) {
  std::filesystem::create_directories(folder);
  std::unordered_map<std::string, mx::array> tensors;
  const auto add = [&](const std::string& name, mx::Shape shape) {
    const float size = shape.size() == 1 ? 0.0f : 0.02f;
    const mx::array values =
        mx::random::normal(shape, mx::float32) * mx::array(size) + mx::array(shape.size() == 1 ? 1.0f : 0.0f);
    tensors.insert({name + ".weight", mx::astype(values, mx::bfloat16)});
  };
  add("model.embed_tokens", {kVocabulary, kHidden});
  add("model.norm", {kHidden});
  for (int i = 0; i < layers; ++i) {
    const std::string block = fmt::format("model.layers.{}.", i);
    add(block + "input_layernorm", {kHidden});
    add(block + "post_attention_layernorm", {kHidden});
    add(block + "self_attn.q_proj", {kHeads * kHeadDim, kHidden});
    add(block + "self_attn.k_proj", {kKvHeads * kHeadDim, kHidden});
    add(block + "self_attn.v_proj", {kKvHeads * kHeadDim, kHidden});
    add(block + "self_attn.o_proj", {kHidden, kHeads * kHeadDim});
    add(block + "mlp.gate_proj", {kInner, kHidden});
    add(block + "mlp.up_proj", {kInner, kHidden});
    add(block + "mlp.down_proj", {kHidden, kInner});
  }
  mx::save_safetensors((folder / "model.safetensors").string(), tensors, {{"format", "mlx"}});
  const Json config{
      {"model_type", "llama"},       {"hidden_size", kHidden},        {"intermediate_size", kInner},
      {"num_hidden_layers", layers}, {"num_attention_heads", kHeads}, {"num_key_value_heads", kKvHeads},
      {"head_dim", kHeadDim},        {"vocab_size", kVocabulary},     {"max_position_embeddings", 131072},
      {"rms_norm_eps", 1e-5},        {"rope_theta", 500000.0},        {"hidden_act", "silu"},
      {"tie_word_embeddings", true}};
  return write_file_atomically(folder / "config.json", config.dump());
}

double seconds(const std::function<void()>& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string name_of(CacheStorage storage) {
  const int bits = kernels::cpu::packed_bits(storage);
  if (bits > 0) return std::to_string(bits);
  return storage == CacheStorage::f16 ? "f16" : storage == CacheStorage::bf16 ? "bf16" : "f32";
}

double mib(std::size_t bytes) {
  return static_cast<double>(bytes) / 1048576.0;
}

void must(const auto& result) {
  if (result) return;
  std::fprintf(stderr, "%s\n", result.error().message.c_str());
  std::exit(1);
}

/// Prefill up to `depth`, then single tokens: medians of their times.
void measure(const model::Model& model, CacheFormat format, std::size_t depth) {
  constexpr int kWarm = 70, kTimed = 192;  // packing every 64th among both
  mx::clear_cache();
  const std::size_t weights = mx::get_active_memory();
  auto backend = runtime::make_graph_backend(model, {.cache = format});
  mx::reset_peak_memory();
  std::vector<std::int32_t> prompt(depth);
  for (std::size_t i = 0; i < depth; ++i)
    prompt[i] = static_cast<std::int32_t>((i * 7919 + 13) % kVocabulary);
  const double prefill = seconds([&] { must(backend->feed(prompt)); });
  const std::size_t prefill_peak = mx::get_peak_memory();
  mx::reset_peak_memory();
  std::vector<double> steps;
  for (int i = 0; i < kWarm + kTimed; ++i) {
    const std::int32_t token = i % 1000;
    const double step = seconds([&] { must(backend->feed({&token, 1})); });
    if (i >= kWarm) steps.push_back(step);
  }
  double mean = 0;
  for (const double step : steps) mean += step / kTimed;
  std::sort(steps.begin(), steps.end());
  const kernels::cpu::CacheShape shape{kKvHeads, kHeadDim, format};
  const auto held = static_cast<std::size_t>(model.config().layers) * shape.bytes(depth + kWarm + kTimed);
  fmt::print(
      "keys {:>4} values {:>4} depth {:>6}: prefill {:8.1f} tokens/s, decode {:7.2f} tokens/s (median; mean "
      "{:7.2f}), "
      "cache {:8.1f} MiB, beside weights: peak of prefill {:8.1f}, of decoding {:8.1f}, held {:8.1f} MiB\n",
      name_of(format.keys), name_of(format.values), depth, static_cast<double>(depth) / prefill,
      1 / steps[steps.size() / 2], 1 / mean, mib(held), mib(prefill_peak - weights),
      mib(mx::get_peak_memory() - weights), mib(mx::get_active_memory() - weights));
  std::fflush(stdout);
}

/// The weights' first use, and the kernels of each format.
void warm_up(const model::Model& model, const std::vector<CacheFormat>& formats) {
  for (const CacheFormat format : formats) {
    const double time = seconds([&] {
      auto backend = runtime::make_graph_backend(model, {.cache = format});
      must(backend->feed(std::vector<std::int32_t>(1100, 5)));
      must(backend->feed(std::vector<std::int32_t>(1, 5)));
    });
    fmt::print("first use of keys {} values {}: {:.1f} s\n", name_of(format.keys), name_of(format.values),
               time);
    std::fflush(stdout);
  }
}

int run(int count, char** arguments) {
  if (count < 4) return std::fprintf(stderr, "usage: %s FOLDER LAYERS DEPTH...\n", arguments[0]), 2;
  const std::filesystem::path folder = arguments[1];
  must(write_model(folder, std::atoi(arguments[2])));
  auto model = model::Model::open(folder);
  must(model);
  using enum CacheStorage;
  const std::vector<CacheFormat> formats{bf16,          f16, packed8, packed4, packed3, {packed8, packed4},
                                         {f16, packed4}};
  warm_up(*model, formats);
  for (int i = 3; i < count; ++i)
    for (const CacheFormat format : formats)
      measure(*model, format, static_cast<std::size_t>(std::atoll(arguments[i])));
  return 0;
}

}  // namespace
}  // namespace optiq

int main(int count, char** arguments) {
  return optiq::run(count, arguments);
}
