// Whole models in GGUF, too small to be any good, with the weights they should be imported as.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "optiq/base/random.h"
#include "support/gguf_builder.h"

namespace optiq::test {

struct TinyGguf {
  std::string architecture = "llama";
  std::uint32_t layers = 2;
  std::uint32_t hidden = 12;
  std::uint32_t intermediate = 20;
  std::uint32_t heads = 4;
  std::uint32_t kv_heads = 2;
  std::uint32_t head_dim = 8;
  bool tied = false;
  bool biases = false;
  /// Tensors (by GGUF name) to be stored so instead of as random f32; they are not in `expected`.
  std::map<std::string, std::pair<io::GgufTensorType, std::vector<std::byte>>> replaced{};

  GgufBuilder builder{};                                 ///< add or spoil entries before build()
  std::map<std::string, std::vector<float>> expected{};  ///< by Hugging Face name

  [[nodiscard]] std::vector<std::string> tokens() const {
    std::vector<std::string> names{"<s>", "</s>"};
    for (char c = 'a'; c <= 'j'; ++c) names.emplace_back(1, c);
    return names;
  }

  TinyGguf& add_metadata() {
    const std::string prefix = architecture + ".";
    builder.string("general.architecture", architecture)
        .u32(prefix + "block_count", layers)
        .u32(prefix + "context_length", 64)
        .u32(prefix + "embedding_length", hidden)
        .u32(prefix + "feed_forward_length", intermediate)
        .u32(prefix + "attention.head_count", heads)
        .u32(prefix + "attention.head_count_kv", kv_heads)
        .u32(prefix + "attention.key_length", head_dim)
        .u32(prefix + "attention.value_length", head_dim)
        .f32(prefix + "attention.layer_norm_rms_epsilon", 1e-5f)
        .f32(prefix + "rope.freq_base", 500000.0f);
    std::vector<std::int32_t> types(tokens().size(), 1);
    types[0] = types[1] = 3;
    builder.string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", "llama-bpe")
        .strings("tokenizer.ggml.tokens", tokens())
        .array("tokenizer.ggml.token_type", io::GgufValueType::i32, types)
        .strings("tokenizer.ggml.merges", {})
        .u32("tokenizer.ggml.bos_token_id", 0)
        .u32("tokenizer.ggml.eos_token_id", 1);
    return *this;
  }

  TinyGguf& add_tensors(Random& random) {
    const auto vocabulary = static_cast<std::uint64_t>(tokens().size());
    add(random, "token_embd.weight", "model.embed_tokens.weight", {vocabulary, hidden});
    for (std::uint32_t layer = 0; layer < layers; ++layer) add_layer(random, layer);
    add(random, "output_norm.weight", "model.norm.weight", {hidden});
    if (!tied) add(random, "output.weight", "lm_head.weight", {vocabulary, hidden});
    return *this;
  }

 private:
  void add_layer(Random& random, std::uint32_t layer) {
    const std::string from = "blk." + std::to_string(layer) + ".";
    const std::string to = "model.layers." + std::to_string(layer) + ".";
    const std::uint64_t q = std::uint64_t{heads} * head_dim, kv = std::uint64_t{kv_heads} * head_dim;
    const bool llama = architecture == "llama";
    const bool fused = architecture == "phi3";
    add(random, from + "attn_norm.weight", to + "input_layernorm.weight", {hidden});
    if (fused) {
      add_linear(random, from + "attn_qkv", to + "self_attn.qkv_proj", q + 2 * kv, hidden, false);
      add_linear(random, from + "ffn_up", to + "mlp.gate_up_proj", 2 * intermediate, hidden, false);
    } else {
      add_linear(random, from + "attn_q", to + "self_attn.q_proj", q, hidden, biases, llama ? heads : 0);
      add_linear(random, from + "attn_k", to + "self_attn.k_proj", kv, hidden, biases, llama ? kv_heads : 0);
      add_linear(random, from + "attn_v", to + "self_attn.v_proj", kv, hidden, biases);
      add_linear(random, from + "ffn_gate", to + "mlp.gate_proj", intermediate, hidden, biases && llama);
      add_linear(random, from + "ffn_up", to + "mlp.up_proj", intermediate, hidden, biases && llama);
    }
    if (architecture == "qwen3") {
      add(random, from + "attn_q_norm.weight", to + "self_attn.q_norm.weight", {head_dim});
      add(random, from + "attn_k_norm.weight", to + "self_attn.k_norm.weight", {head_dim});
    }
    add_linear(random, from + "attn_output", to + "self_attn.o_proj", hidden, q, biases && llama);
    add(random, from + "ffn_norm.weight", to + "post_attention_layernorm.weight", {hidden});
    add_linear(random, from + "ffn_down", to + "mlp.down_proj", hidden, intermediate, biases && llama);
  }

  void add_linear(Random& random, const std::string& from, const std::string& to, std::uint64_t out,
                  std::uint64_t in, bool bias, std::uint32_t interleaved_heads = 0) {
    add(random, from + ".weight", to + ".weight", {out, in}, interleaved_heads);
    if (bias) add(random, from + ".bias", to + ".bias", {out}, interleaved_heads);
  }

  void add(Random& random, const std::string& from, const std::string& to, std::vector<std::uint64_t> shape,
           std::uint32_t interleaved_heads = 0) {
    if (const auto found = replaced.find(from); found != replaced.end()) {
      builder.tensor(from, found->second.first, shape, found->second.second);
      return;
    }
    std::uint64_t count = 1;
    for (const std::uint64_t extent : shape) count *= extent;
    std::vector<float> values(count);
    for (float& value : values) value = static_cast<float>(random.normal());
    expected[to] = values;
    builder.tensor(from, shape,
                   interleaved_heads == 0 ? values : interleave(values, shape[0], interleaved_heads));
  }

  /// What llama.cpp's converter does to q and k: each head's rows seen as [2, n / 2] are transposed.
  static std::vector<float> interleave(const std::vector<float>& values, std::uint64_t rows,
                                       std::uint32_t heads) {
    const std::size_t columns = values.size() / rows, n = rows / heads;
    std::vector<float> out;
    for (std::size_t head = 0; head < heads; ++head) {
      for (std::size_t i = 0; i < n / 2; ++i) {
        for (std::size_t j = 0; j < 2; ++j) {
          const auto row =
              values.begin() + static_cast<std::ptrdiff_t>((head * n + j * (n / 2) + i) * columns);
          out.insert(out.end(), row, row + static_cast<std::ptrdiff_t>(columns));
        }
      }
    }
    return out;
  }
};

}  // namespace optiq::test
