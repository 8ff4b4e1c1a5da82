// Tiny random transformers with a tokenizer beside them, as folders that a command could open.
#pragma once

#include <filesystem>
#include <string_view>

#include "optiq/model/model.h"
#include "support/arrays.h"
#include "support/model_folder.h"
#include "support/temporary_folder.h"
#include "support/tokenizers.h"

namespace optiq::test {

/// Ids that every tiny tokenizer's fit in.
inline constexpr int kTinyVocabulary = 640;

/// A golden model with new embeddings (and head) for another vocabulary, and another context length.
inline ModelFolder resized(ModelFolder folder, Random& random, int vocabulary, int max_positions) {
  const int hidden = folder.config["hidden_size"].get<int>();
  folder.config["vocab_size"] = vocabulary;
  folder.config["max_position_embeddings"] = max_positions;
  folder.set("model.embed_tokens.weight", random_array(random, {vocabulary, hidden}));
  if (folder.tensors.contains("lm_head.weight"))
    folder.set("lm_head.weight", random_array(random, {vocabulary, hidden}, mx::float32, 0.5));
  return folder;
}

inline void copy_tokenizer(std::string_view name, const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  for (const auto& entry : std::filesystem::directory_iterator(tokenizer_goldens() / name)) {
    std::filesystem::copy(entry.path(), folder, std::filesystem::copy_options::overwrite_existing);
  }
}

inline model::Model open_model(const ModelFolder& content, const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  content.write(folder);
  return model::Model::open(folder).value();
}

inline model::Model golden_model(const std::string& name) {
  return model::Model::open(golden_folder(name)).value();
}

/// A golden model with heads of 64, many of them if need be, and many positions.
inline model::Model wide_model(const std::string& name, Random& random, int heads = 4, int kv_heads = 2) {
  ModelFolder folder = ModelFolder::golden(name);
  folder.config["head_dim"] = 64;
  folder.config["num_attention_heads"] = heads;
  folder.config["num_key_value_heads"] = kv_heads;
  folder.config["max_position_embeddings"] = 65536;
  for (const std::string layer : {"0", "1"}) {
    const std::string block = "model.layers." + layer + ".self_attn.";
    for (const auto& [module, out] : {std::pair{"q", 64 * heads}, {"k", 64 * kv_heads}, {"v", 64 * kv_heads}})
      folder.set(block + module + "_proj.weight", random_array(random, {out, 32}, mx::float32, 0.2));
    folder.set(block + "o_proj.weight", random_array(random, {32, 64 * heads}, mx::float32, 0.05));
  }
  const TemporaryFolder place;
  return open_model(folder, place.path());
}

/// Logits of a whole sequence without a cache, one row a position, in double.
inline std::vector<Doubles> logits_of(const model::Model& model, const std::vector<std::int32_t>& tokens,
                                      const model::Pass& pass = {}) {
  const mx::array ids(tokens.begin(), {1, static_cast<int>(tokens.size())}, mx::int32);
  const Doubles all = values(model.forward(ids, pass));
  const std::size_t width = all.size() / tokens.size();
  std::vector<Doubles> rows;
  for (std::size_t i = 0; i < tokens.size(); ++i)
    rows.emplace_back(all.begin() + static_cast<std::ptrdiff_t>(i * width),
                      all.begin() + static_cast<std::ptrdiff_t>((i + 1) * width));
  return rows;
}

inline Doubles log_softmax(Doubles logits) {
  const double highest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const double x : logits) sum += std::exp(x - highest);
  for (double& x : logits) x -= highest + std::log(sum);
  return logits;
}

/// KL(softmax(reference) ‖ softmax(logits)).
inline double kl_divergence(const Doubles& reference, const Doubles& logits) {
  const Doubles p = log_softmax(reference), q = log_softmax(logits);
  double sum = 0;
  for (std::size_t i = 0; i < p.size(); ++i) sum += std::exp(p[i]) * (p[i] - q[i]);
  return sum;
}

/// Pearson's χ² of counts against probabilities, in standard deviations from its mean; bins expected less
/// than 5 times are thrown together.
inline double chi_square_deviation(const std::vector<int>& counts, const Doubles& probabilities) {
  double total = 0, chi = 0, rare_count = 0, rare_expected = 0, bins = 0;
  for (const int count : counts) total += count;
  const auto add = [&](double count, double expected) {
    chi += (count - expected) * (count - expected) / expected;
    ++bins;
  };
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const double expected = total * probabilities[i];
    if (expected >= 5) {
      add(counts[i], expected);
    } else {
      rare_count += counts[i];
      rare_expected += expected;
    }
  }
  if (rare_expected > 0) add(rare_count, rare_expected);
  const double freedom = std::max(1.0, bins - 1);
  return (chi - freedom) / std::sqrt(2 * freedom);
}

}  // namespace optiq::test
